"""Who is told what happens in a session, for its two maps: over page frames, and over addresses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpuscan.heatmap.addresses import AddressRecorder
from gpuscan.heatmap.recorder import MapRecorder
from gpuscan.linux.address_map import AddressMap
from gpuscan.linux.process import Process

_NAME_LENGTH_MAX = 200
"""Of a mapping: of a long path the end says what it is."""
_ANONYMOUS = "anonymous"


class SessionWitness:
    """A :class:`gpuscan.monitors.source.SeeingWitness` for both maps.

    Args:
        frames, addresses: what counts for each.
    """

    def __init__(self, frames: MapRecorder, addresses: AddressRecorder) -> None:
        self._frames, self._addresses = frames, addresses

    def follow(self, candidates: AddressMap) -> None:
        """Look up in ``candidates`` from now on what process and address a folio stands for."""

        def look_up(pfns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            entries, known = candidates.find(pfns)
            return np.where(known, entries.process, -1), entries.address

        self._addresses.look_up = look_up

    def sampled(self, n: int) -> NDArray[np.int64]:
        """See :class:`gpuscan.engine.stages.AccessWitness`."""
        return self._frames.sampled(n)

    def accessed(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.engine.stages.AccessWitness`."""
        self._frames.accessed(now_ns, flats)

    def filled(self, now_ns: int, free_pages: Mapping[int, int], room_pages: Mapping[int, int]) -> None:
        """See :class:`gpuscan.engine.stages.AccessWitness`."""
        self._frames.filled(now_ns, free_pages, room_pages)

    def no_room(self, target_nid: int, n_folios: int) -> None:
        """See :class:`gpuscan.engine.stages.Witness`."""
        self._frames.no_room(target_nid, n_folios)

    def accessed_by(self, now_ns: int, number: int, addresses: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.monitors.source.AddressWitness`."""
        self._addresses.accessed(now_ns, number, addresses)

    def read(self, number: int, process: Process) -> None:
        """See :class:`gpuscan.monitors.source.AddressWitness`."""
        mappings = [
            (one.start, one.end, one.name[-_NAME_LENGTH_MAX:] or _ANONYMOUS) for one in process.mappings()
        ]
        self._addresses.mapped(number, f"{process.comm} ({process.pid})", mappings)

    def gone(self, number: int) -> None:
        """See :class:`gpuscan.monitors.source.AddressWitness`."""
        self._addresses.gone(number)

    def marked(self, now_ns: int, pfns: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.engine.stages.Witness`."""
        self._frames.marked(now_ns, pfns)
        self._addresses.marked(now_ns, pfns)

    def claimed(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.engine.stages.Witness`."""
        self._frames.claimed(now_ns, flats, n_pages)
        self._addresses.claimed(now_ns, flats, n_pages)

    def moved(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.engine.stages.Witness`."""
        self._frames.moved(now_ns, flats, n_pages)
        self._addresses.moved(now_ns, flats, n_pages)
