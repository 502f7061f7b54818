"""Stores whose index alone is on the device; the records, rarely touched, are in memory that is larger.

A scan of such a store goes by the index: bits are read where the scan runs, and of the records only those
that the bits name. What reads all records is refused, or goes by the index too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.kernels.api import Backend, Kernels, ScanPath, ScanRequest, StoreLayout
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.kernels.raw_plan import RawPlan

_BY_INDEX = "the records are elsewhere, so only those that the bits name are read"
_P = TypeVar("_P", RawPlan, DevicePlan)


class RecordMemory(Protocol):
    """Where records are, if they are not on the device.

    Attributes:
        array: uint8[n], zeros at first; it begins a page.
    """

    array: NDArray[np.uint8]

    def check(self) -> None:
        """Refuse to work on memory that is no longer there; raises a GpuscanError. Quick: every call asks."""
        ...

    def close(self) -> None:
        """Let go of it. Idempotent."""
        ...


MakeRecordMemory = Callable[[int], RecordMemory]
"""Makes so many bytes, or raises a DeviceError, having made nothing; called when all else is known to fit."""


class IndexBackend(Protocol):
    """A :class:`gpuscan.kernels.api.Backend` whose stores may have their index alone on the device."""

    def open_index(self, layout: StoreLayout, make: MakeRecordMemory | None) -> Kernels:
        """Allocate an empty store as :meth:`Backend.open` does, its records elsewhere.

        Args:
            layout: of the store.
            make: makes memory in this process's addresses for them; None: the backend knows a place itself.

        Raises:
            DeviceError: the index does not fit the device, or the records that place; or the device does
                not reach it. Nothing was allocated.
            InputError: it knows no place.
        """
        ...


def index_backend(backend: Backend) -> IndexBackend:
    """Return a backend as one that may have the index of a store alone on its device.

    Raises:
        InputError: it never does.
    """
    if not hasattr(backend, "open_index"):
        raise InputError(
            f"the backend {backend.name} keeps all of a store on its device; take residency device, or "
            "another device"
        )
    return cast(IndexBackend, backend)


def check_path(path: ScanPath) -> None:
    """Refuse a scan that would read all records.

    Raises:
        InputError: it would.
    """
    if path == "dense":
        raise InputError(
            "a dense scan reads every record, and the records of this store are not on its device "
            "(residency index); take the path auto or indexed, or keep them there (residency device)"
        )


def scan_by_index(request: ScanRequest, scan: Callable[[ScanRequest], _P]) -> _P:
    """Do a scan that reads no records but those that the index names.

    Raises:
        InputError: it was to read all of them; else as ``scan``.
    """
    check_path(request.path)
    plan = scan(replace(request, path="indexed"))
    return plan if request.path == "indexed" else plan.because(_BY_INDEX)
