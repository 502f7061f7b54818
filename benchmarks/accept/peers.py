"""Other ways to the same plan on the same device. Peers only read: they claim nothing, which favours them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accept.rig import Pairs, Rig
from gpuscan.kernels.cuda.device import Device
from gpuscan.records.formats import RecordFormat


@dataclass(frozen=True, slots=True)
class Peer:
    """One way: ``group(records)`` returns the flat pages of READY records by target, device array."""

    name: str
    group: Callable[[Any], Any]


class PeerAnswer:
    """Flat pages fetched to pinned host memory, as a plan of ours is.

    Attributes:
        flats: the pages.
        allocated_ns: what allocating the host memory took, which we do once and reuse.
    """

    def __init__(self, device: Device, flats: Any) -> None:
        started = time.perf_counter_ns()
        self.flats: NDArray[Any] = device.host_empty(len(flats), flats.dtype)
        self.allocated_ns = time.perf_counter_ns() - started
        device.fetch_beside([(flats, self.flats)])()


def composition(rig: Rig, fmt: RecordFormat) -> Peer:
    """Return the array way: ``flatnonzero`` over a mask, a stable ``argsort`` of the targets."""
    xp, ready = rig.xp, fmt.dtype.type(fmt.ready.mask)
    shift, most = fmt.dtype.type(fmt.nid.shift), fmt.dtype.type(fmt.nid.max)

    def group(records: Any) -> Any:
        flats = xp.flatnonzero(records & ready)
        targets = ((records[flats] >> shift) & most).astype(np.uint16)
        return flats[xp.argsort(targets, kind="stable")]

    return Peer("CuPy flatnonzero + argsort", group)


def cub(rig: Rig, fmt: RecordFormat) -> Peer:
    """Return CUB's select, and the radix sort that CuPy's ``argsort`` of 16-bit keys is (Thrust's, so CUB's).

    Raises:
        Whatever the compiler says.
    """
    select: Callable[[Any], Pairs] = rig.cub_select(fmt)

    def group(records: Any) -> Any:
        targets, flats = select(records)
        return flats[rig.xp.argsort(targets, kind="stable")]

    return Peer("CUB select + radix sort", group)
