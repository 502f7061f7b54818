"""Arrays that callers have on the device already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuscan.base.arguments import ArraySpec, is_on_gpu
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.cuda.device import Device


def adopted(
    device: Device, place: str, specs: Sequence[ArraySpec], given: Sequence[Any], record_dtype: np.dtype[Any]
) -> list[Any]:
    """Return arrays of a device as kernels take them: as they are, of as many items each.

    Their values are looked at by kernels only. Not called while working: a library that has a current stream
    means the caller's.

    Args:
        device: where they are.
        place: the operation, for the sentence.
        specs: of each its name and dtype.
        given: the arrays.
        record_dtype: what ``record`` stands for in a spec.

    Raises:
        ArgumentError: one is of another dtype, shape or device, not contiguous, or masked.
    """
    taken: list[Any] = []
    for spec, array in zip(specs, given, strict=True):
        n_items = f"{len(taken[0])}" if taken else "n"
        dtype = record_dtype.name if spec.dtype == "record" else spec.dtype
        remedy = f"give {dtype}[{n_items}], contiguous, on the store's device"
        if not is_on_gpu(array):
            raise ArgumentError(f"{place}: {spec.name} is in host memory, and not all are; {remedy}")
        told = getattr(array, "__cuda_array_interface__", None)
        if told is not None and told.get("mask") is not None:
            raise ArgumentError(f"{place}: {spec.name} has a mask, and kernels take every element; {remedy}")
        try:
            mine = device.adopt(array)
        except ArgumentError as error:
            raise ArgumentError(f"{place}: {spec.name} {error}; {remedy}") from None
        fault = ""
        if mine.dtype.name != dtype:
            fault = f"has dtype {mine.dtype}"
        elif mine.ndim != 1 or (len(mine) > 1 and mine.strides != (mine.itemsize,)):
            fault = "is not one row of memory"
        elif taken and len(mine) != len(taken[0]):
            fault = f"has {len(mine)} elements"
        if fault:
            raise ArgumentError(f"{place}: {spec.name} {fault}; {remedy}")
        taken.append(mine)
    return taken
