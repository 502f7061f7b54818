"""The open loop for what runs on a store, gpuscan itself: the same list, real scans on the CPU, timed.

Every entry is a request, also where the workload's producer records accesses: the list has what it asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.compare.open_loop import OnMarks, OpenResult, places_in_zone
from gpuscan.compare.overwritten_targets import WatchedStore
from gpuscan.compare.request_list import RequestList, digest_entries
from gpuscan.compare.settings import Settings
from gpuscan.designs.requests import OVERWRITTEN_NID
from gpuscan.kernels.api import Outcome
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.store.plan import Plan

_NOT_PENDING = -1
_SCANS_AFTER_END = 2


class StoreLoop:
    """Marks the list's entries and scans every interval; nothing moves.

    Args:
        name: of the design.
        settings: policy and threads.
        machine: whose folios may move; it stays as it is.
        requests: the list.
    """

    def __init__(
        self, name: str, settings: Settings, machine: SimulatedMachine, requests: RequestList
    ) -> None:
        self._policy = settings.policy_of(name)
        self._topology = settings.topology
        self._entries = requests.entries()
        self._store = WatchedStore(
            settings.topology,
            self._policy.record_format,
            "cpu",
            large_folios=machine.has_large_folios,
            n_threads=settings.n_threads,
        )
        for event in machine.folios():
            self._store.admit(event.allocated, event.order)
        flats = self._store.page_map.flat_of_pfn(self._entries["pfn"])
        self._flats, self._which = np.unique(flats, return_inverse=True)
        self._since_ns = np.full(len(self._flats), _NOT_PENDING, dtype=np.int64)
        self._asked_nid = np.zeros(len(self._flats), dtype=np.int32)
        self._result = OpenResult(name, batch_limit=self._policy.batch_pages, fill_unit="base pages")
        self._result.interval_ns = self._policy.interval_ns
        self._delays: list[NDArray[np.int64]] = []
        self._found: list[NDArray[np.int64]] = []
        self._fills: list[NDArray[np.int64]] = []

    def run(self, on_marks: OnMarks | None = None) -> OpenResult:
        """Make every mark, scan, and return what came of it.

        Raises:
            RunFailedError: a request was lost.
        """
        entries, interval_ns = self._entries, self._policy.interval_ns
        times = np.ascontiguousarray(entries["time_ns"])
        self._scan(0)  # loads what a scan needs, on an empty store
        self._result.scan_ns = self._result.examined = self._result.examined_bytes = self._result.n_scans = 0
        done = now_ns = 0
        for _ in range(int(times[-1]) // interval_ns + _SCANS_AFTER_END):
            now_ns += interval_ns
            upto = int(np.searchsorted(times, now_ns, side="right"))
            if upto > done:
                self._mark(slice(done, upto))
                if on_marks is not None:
                    on_marks(upto - done)
                done = upto
            if (self._since_ns != _NOT_PENDING).any():
                self._scan(now_ns)
        return self._finished()

    def _mark(self, part: slice) -> None:
        entries, which = self._entries[part], self._which[part]
        outcomes = np.empty(len(entries), dtype=np.uint8)
        overwritten = self._store.n_overwritten
        counts = self._store.request_outcomes(entries["pfn"], entries["nid"], outcomes)
        n_overwritten = self._store.n_overwritten - overwritten
        result, n_refreshed = self._result, counts[Outcome.REFRESHED]
        n_requested = counts[Outcome.ACCEPTED] + n_refreshed
        result.requested += n_requested
        result.never_ready += len(entries) - n_requested
        taken = np.isin(outcomes, (Outcome.ACCEPTED, Outcome.REFRESHED))
        entries, which = entries[taken], which[taken]
        result.superseded += n_refreshed - n_overwritten
        if n_overwritten:
            result.lost[OVERWRITTEN_NID] = result.lost.get(OVERWRITTEN_NID, 0) + n_overwritten
        fresh = self._since_ns[which] == _NOT_PENDING
        # Backwards, so that the first mark of a page stays.
        self._since_ns[which[fresh][::-1]] = entries["time_ns"][fresh][::-1]
        self._asked_nid[which] = entries["nid"]

    def _scan(self, now_ns: int) -> None:
        result, spent_ns = self._result, 0
        for plan in self._store.drain(
            capacity=self._policy.capacity_folios or None, path=self._policy.scan_path
        ):
            spent_ns += plan.scan_ns
            result.examined += plan.examined_pages
            result.examined_bytes += plan.examined_bytes
            self._take(plan, now_ns + spent_ns)
        result.scan_ns += spent_ns
        result.n_scans += 1
        result.end_ns = max(result.end_ns, float(now_ns + spent_ns))

    def _take(self, plan: Plan, found_ns: int) -> None:
        which = np.searchsorted(self._flats, plan.flat)
        self._result.n_marked_sections += len(np.unique(plan.flat // SECTION_PAGES))
        self._delays.append(found_ns - self._since_ns[which])
        self._found.append(plan.flat)
        self._since_ns[which] = _NOT_PENDING
        self._result.wrong_node += int(np.count_nonzero(self._asked_nid[which] != plan.target_of_folio()))
        self._fills.append(plan.batches(self._policy.batch_pages).n_pages)

    def _finished(self) -> OpenResult:
        result, none = self._result, np.empty(0, dtype=np.int64)
        result.list_digest = digest_entries(self._entries)
        result.delays_ns = np.concatenate([none, *self._delays])
        result.positions = np.concatenate([none, *self._found])
        result.place_in_zone = places_in_zone(self._topology, result.positions)
        result.fills = np.concatenate([none, *self._fills]).astype(np.int32)
        result.found = len(result.positions)
        result.pending = self._store.count_ready()
        superseded, n_lost = result.superseded, sum(result.lost.values())
        if result.requested != result.found + result.pending + superseded + n_lost:
            raise RunFailedError(
                f"conservation broke: {result.requested} requests, {result.found} found, {result.pending} "
                f"pending, {superseded} superseded, {n_lost} lost; this is a bug in gpuscan, report it with "
                "the workload and the seed"
            )
        self._store.close()
        return result
