"""A store's arrays for others to read: without a copy, and whichever device has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuscan.kernels.layout import StoreArrays


class StoreView:
    """The arrays of a store as they are now, by the names of :class:`gpuscan.kernels.layout.StoreArrays`.

    Each time one is asked for it is that of the device that the store is on by then: where the CPU took over
    for a device that failed, the CPU's. An array that was taken before stays the one that it was.

    Args:
        arrays: returns the store's own, when all that was asked of it is done; raises ArgumentError where
            it is closed.
    """

    def __init__(self, arrays: Callable[[], StoreArrays]) -> None:
        self._arrays = arrays

    @property
    def records(self) -> Any:
        """Return fmt.dtype[n_pages]."""
        return _read_only(self._arrays().records)

    @property
    def ready_bits(self) -> Any:
        """Return uint64[n_pages / 64]."""
        return _read_only(self._arrays().ready_bits)

    @property
    def block_bits(self) -> Any:
        """Return uint64[n_pages / 32768]."""
        return _read_only(self._arrays().block_bits)

    @property
    def eligible_bits(self) -> Any:
        """Return uint64[n_pages / 64]."""
        return _read_only(self._arrays().eligible_bits)

    @property
    def folio_order(self) -> Any:
        """Return uint8[n_pages], or uint8[0] without large folios."""
        return _read_only(self._arrays().folio_order)

    @property
    def node_active(self) -> Any:
        """Return uint8[1024]."""
        return _read_only(self._arrays().node_active)


def _read_only(array: Any) -> Any:
    """Return a view that refuses to be written; CuPy's arrays know no such."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.flags.writeable = False
    return view
