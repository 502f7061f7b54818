"""A scan between its claims and its plan: the plan may be on its way while the next scan runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import settle
from gpuscan.kernels.api import RawPlan, ScanRequest
from gpuscan.records.page_map import PageMap
from gpuscan.store.plan import Plan


class Arrived(NamedTuple):
    """What a plan holds in host memory, without the folios that were freed since they were claimed.

    ``offsets``, ``flat`` and ``words`` as in :class:`gpuscan.kernels.api.RawPlan`; they may be views of it.
    """

    offsets: NDArray[np.int64]
    flat: NDArray[np.int64]
    words: NDArray[Any]
    n_freed: int


@dataclass(slots=True, eq=False)
class ScanInFlight:
    """Claims of a scan whose plan is not handed out yet.

    Attributes:
        raw: the plan; its arrays may be on their way.
        lo: first flat page of the range.
        scan_ns: wall time of the scan, and of waiting for its plan so far.
        freed: flat pages freed since, int64[n] a call; only those of the range are kept.
    """

    raw: RawPlan
    lo: int
    scan_ns: int
    freed: list[NDArray[np.int64]] = field(default_factory=list)

    @classmethod
    def of(cls, scan: Callable[[ScanRequest], RawPlan], request: ScanRequest) -> ScanInFlight:
        """Scan; return as soon as the claims are made. Raises as ``scan``."""
        started = time.perf_counter_ns()
        raw = scan(request)
        return cls(raw, request.lo, time.perf_counter_ns() - started)

    def note_freed(self, flats: NDArray[np.int64]) -> None:
        """Leave freed folios, by their heads, out of the plan: their requests ended with them."""
        inside = flats[(flats >= self.lo) & (flats < self.raw.cursor)]
        if len(inside):
            self.freed.append(inside)

    def wait(self) -> None:
        """Wait for the arrays. Raises as :meth:`RawPlan.wait`."""
        started = time.perf_counter_ns()
        self.raw.wait()
        self.scan_ns += time.perf_counter_ns() - started

    def arrived(self) -> Arrived:
        """Return what is in host memory; waits, and raises, as :meth:`wait`."""
        raw = self.raw
        flat, words = raw.flat, raw.words
        freed = self.freed[:]  # another thread may free at any time
        if not freed:
            return Arrived(raw.offsets, flat, words, 0)
        kept = np.isin(flat, np.concatenate(freed), invert=True)
        n_kept_before = np.concatenate(([0], np.cumsum(kept)))
        return Arrived(n_kept_before[raw.offsets], flat[kept], words[kept], int((~kept).sum()))

    def plan(self, page_map: PageMap, order: NDArray[np.uint8] | None) -> Plan:
        """Return the plan, which owns its arrays; waits, and raises, as :meth:`wait`.

        Args:
            page_map: the store's.
            order: uint8[n_pages], or None where every folio is one page.
        """
        raw, arrived = self.raw, self.arrived()
        is_shared = not raw.owns_arrays and arrived.flat is raw.flat
        return _plan_of(
            offsets=arrived.offsets,
            pfn=page_map.pfn_of_flat(arrived.flat),
            flat=arrived.flat.copy() if is_shared else arrived.flat,
            words=arrived.words.copy() if is_shared else arrived.words,
            order=None if order is None else order[arrived.flat],
            cursor=raw.cursor,
            path=raw.path,
            why=raw.why,
            scan_ns=self.scan_ns,
            examined_pages=raw.examined_pages,
            examined_bytes=raw.examined_bytes,
            n_unknown_target=raw.n_unknown_target,
            n_superseded=raw.n_superseded,
            n_freed=arrived.n_freed,
        )


@dataclass(slots=True)
class EndedAhead:
    """Requests that ended in scans that were begun and put back. Folios.

    Attributes:
        superseded: their pages were READY again.
        freed: their folios were freed meanwhile.
        unknown_target: as ``Plan.n_unknown_target``.
    """

    superseded: int = 0
    freed: int = 0
    unknown_target: int = 0


_PLAN_FIELDS = frozenset(place.name for place in fields(Plan))


def _plan_of(**values: Any) -> Plan:
    """Return the plan of a backend's arrays, without the checks that strangers' plans go through.

    They take 10 us, as long as a scan that finds little. What a backend returns is checked by the tests.
    """
    if values.keys() != _PLAN_FIELDS:
        raise TypeError(f"a plan has other fields: {', '.join(values.keys() ^ _PLAN_FIELDS)}")
    plan = object.__new__(Plan)
    settle(plan, **values)
    return plan
