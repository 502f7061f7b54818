"""The backends that the same tests run on, by name; made at first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from emulated import emulated_backend
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.reference import ReferenceBackend

EVERY_DEVICE: list[Any] = [
    "cpu-1",
    "cpu-2",
    "cpu-4",
    "emulated",
    "emulated-exclusive",
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("cuda-exclusive", marks=pytest.mark.gpu),
]
"""Names of all backends that are compared with the reference, the last on a GPU."""


@cache
def backend_named(name: str) -> Any:
    """Return a backend: ``cpu-`` and the number of threads, ``emulated`` or ``cuda``, ``reference``."""
    device, _, option = name.partition("-")
    if device == "cpu":
        return CpuBackend(int(option))
    if device == "emulated":
        return emulated_backend(seed=2 + len(option), exclusive=option == "exclusive")
    if device == "cuda":
        return CudaBackend(exclusive=option == "exclusive")
    return ReferenceBackend()
