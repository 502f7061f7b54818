"""Where the records of a store are: on its device, or elsewhere while the index alone is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from gpuscan.base.arguments import function, one_of, place_of
from gpuscan.base.errors import ArgumentError
from gpuscan.base.residency import RESIDENCIES, Residency
from gpuscan.files.disk_memory import disk_memory
from gpuscan.kernels.api import Backend, Kernels, StoreLayout
from gpuscan.kernels.residency import index_backend


def open_kernels(
    backend: Backend,
    layout: StoreLayout,
    residency: Residency,
    records_dir: Path | str | None,
    on_reserved: Callable[[int], object] | None,
) -> Kernels:
    """Open an empty store on a backend; arguments as of :class:`gpuscan.store.single.Store`.

    Raises:
        DeviceError: something does not fit; nothing was allocated.
        InputError: the backend never has the index alone, or does not know where the records should be.
    """
    one_of("a store's residency", residency, RESIDENCIES)
    function("a store's on_reserved", on_reserved, "leave it out, or give a function")
    directory = None if records_dir is None else place_of("a store's records_dir", records_dir)
    if residency == "device":
        if directory is not None:
            raise ArgumentError(
                "a store's records_dir is for records that are not on the device; give residency='index' too"
            )
        return backend.open(layout)
    make = None if directory is None else partial(disk_memory, directory, on_reserved=on_reserved)
    return index_backend(backend).open_index(layout, make)
