"""``section-flag-next``: pghot as it stands in the tree after v7, where a report carries a count.

Pinned to github.com/davidlohr/linux at bef84326d61f: mm/pghot.c, mm/pghot-default.c, mm/pghot-precise.c,
include/linux/pghot.h and Documentation/admin-guide/mm/pghot.rst; ``promote_misplaced_memcg_folios()`` is that
of mm/migrate.c there (5fe77ad9f9ed). The walk, the threshold and the rate limit are those of v7, and so of
:mod:`gpuscan.designs.pghot`.

What differs from v7:

- ``pghot_record_accesses()`` takes how many accesses are reported, up to what the record counts to. One
  report of a device that counts can make a page READY. ``pghot_record_range()`` reports a stretch of pages at
  once: it is counted as one report, and each folio in it inherits the count.
- A record is built anew at each report (``pghot_update_record()``), so READY goes when a window begins with
  fewer accesses than the threshold. A request that was still pending is gone; the section's hot bit stays,
  and the walk goes through it for nothing. (The mm tree has this since 0e9084fe7728.)
- Bit 27 of the precise record, PGHOTNID_KNOWN, says that its node came from somebody who knows it. Who does
  not (NUMA_NO_NODE) leaves the node as it is. Where nobody knew, and always in the compact mode, the walk
  asks for the target: ``pghot_promotion_target()``, with ``vm.pghot_target_nid`` -1 the nearest node of the
  top tier that has memory, the lowest on a tie.
- ``vm.pghot_enabled_sources`` is 1 by default: hint faults, not hardware. Here, whoever starts a producer
  has enabled it.
- A section has records if its first page is online (v7: if it is there). They come and go with its memory,
  and threads with the first and the last memory of a node (``pghot_node_callback()``); so do the targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.built_in.section_flag import DESIGN as POSTED
from gpuscan.designs.contract import PlotStyle
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import UNKNOWN, Coming, PghotTunables
from gpuscan.designs.pghot_records import ASKS, COOLS, NID_KNOWN, NOT_RECORDED, Reports
from gpuscan.designs.requests import COOLED, STALE
from gpuscan.designs.taking import NOT_ASKED
from gpuscan.designs.tunables import MIB, NS_PER_MS
from gpuscan.records.page_map import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

HINTFAULTS, HWHINTS = 1, 2
"""Bits of vm.pghot_enabled_sources: PGHOT_HINTFAULTS_ENABLED and PGHOT_HWHINTS_ENABLED."""
_RECORDED = {HINTFAULTS: "pghot_recorded_hintfaults", HWHINTS: "pghot_recorded_hwhints"}
_HOT_MAP_HEADER_BYTES = 24
"""struct pghot_hot_map before its records: struct rcu_head and flags."""


@dataclass(frozen=True, slots=True)
class NextTunables(PghotTunables):
    """The tunables of pghot after v7, with its defaults.

    Attributes:
        target_nid: ``vm.pghot_target_nid``: where records without a node go to; -1: nearest top-tier node.
        enabled_sources: ``vm.pghot_enabled_sources``, :data:`HINTFAULTS` and :data:`HWHINTS`.
    """

    target_nid: int = NUMA_NO_NODE
    enabled_sources: int = HINTFAULTS


class SectionFlagNext(SectionFlag):
    """pghot after v7 on one machine.

    Args:
        machine: whose pages are walked.
        tunables: see there.
        without_memory: nodes whose memory comes later: :meth:`memory_added`. Their pages are not online.

    Raises:
        InputError: ``hz`` does not divide 1000.
    """

    _AS_POSTED = False

    def __init__(
        self, machine: Machine, tunables: NextTunables | None = None, without_memory: Iterable[int] = ()
    ) -> None:
        tunables = tunables or NextTunables()
        super().__init__(machine, tunables)
        self._enabled_sources = tunables.enabled_sources
        self._with_memory = set(machine.nids) - set(without_memory)
        self._has_map: dict[int, bool] = {}  # as far as anybody has asked
        self._nearest: dict[int, int] = {}  # likewise

    # -- nodes and sections

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return nid in self._with_memory and super().has_thread(nid)

    def memory_added(self, nid: int, sections: Sequence[int]) -> None:
        """Note that a node's first memory is online, in these sections: NODE_ADDED_FIRST_MEMORY.

        The first block of a lower tier comes before the node has one, and gets its records then
        (``pghot_alloc_node_hotmaps()``), the others when they come: all have them in the end.
        """
        self._with_memory.add(nid)
        if not self.machine.is_top_tier(nid):
            self._has_map.update(dict.fromkeys(sections, True))
        self._forget_nodes(sections)

    def memory_removed(self, nid: int, sections: Sequence[int]) -> None:
        """Note that a node's last memory is offline: NODE_REMOVED_LAST_MEMORY, after MEM_OFFLINE.

        The records of these sections are gone. PGDAT_KMIGRATED_ACTIVATE stays as it is.
        """
        self._with_memory.discard(nid)
        self._has_map.update(dict.fromkeys(sections, False))
        self._hot[list(sections)] = False
        for section in sections:
            start = section * SECTION_PAGES
            for lo, hi in self.machine.ranges(start, start + SECTION_PAGES):
                self.ledger.end_pending_many(np.arange(lo, hi), STALE)
                self.records[lo:hi] = 0
        self._forget_nodes(sections)

    def _forget_nodes(self, sections: Sequence[int]) -> None:
        """Forget what depends on which nodes have memory: ``pghot_topo_targets_update()``."""
        self._nearest.clear()
        self._hot_maps.fill(UNKNOWN)
        for section in sections:
            self._nid_of_section.pop(section, None)

    def _section_nid(self, section: int) -> int:
        """Return the node of a section's first page, -1 where that is not online."""
        nid = self._nid_of_section.get(section)
        if nid is None:
            first = self.machine.position(section * SECTION_PAGES)
            online = first >= 0 and self.machine.page(first).online
            nid = self.machine.page(first).nid if online else NUMA_NO_NODE
            self._nid_of_section[section] = nid
        return nid

    def _has_hot_map(self, section: int) -> bool:
        """Whether the section has records: ``ms->hot_map``."""
        found = self._has_map.get(section)
        if found is None:
            found = self._has_map[section] = super()._has_hot_map(section)
        return found

    def promotion_target(self, nid: int) -> int:
        """Return where a page of a node goes that nobody knows a target of, -1 for none.

        ``pghot_promotion_target()``.
        """
        if self.tunables.target_nid != NUMA_NO_NODE:
            return self.tunables.target_nid
        nearest = self._nearest.get(nid)
        if nearest is None:
            top = [other for other in sorted(self._with_memory) if self.machine.is_top_tier(other)]
            nearest = min(top, key=lambda other: self.machine.distance(nid, other), default=NUMA_NO_NODE)
            self._nearest[nid] = nearest
        return nearest

    # -- producers

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.record_accesses(pfn, nid, 1, now_jiffies, self._source)

    def record_accesses(self, pfn: int, nid: int, n_accesses: int, now_jiffies: int, source: int) -> int:
        """Take a report of accesses to a page: ``pghot_record_accesses()``.

        Args:
            pfn: the page.
            nid: node of the accessing CPU, -1 where that is not known.
            n_accesses: how many.
            now_jiffies: the time.
            source: :data:`HINTFAULTS` or :data:`HWHINTS`.

        Returns:
            0, also where nothing is recorded, or -EINVAL.
        """
        checked = self._check_report(nid, n_accesses, source)
        if checked <= 0:
            return checked
        self._record_page(pfn, nid, n_accesses, now_jiffies)
        return 0

    def record_range(
        self, pfn: int, n_pages: int, nid: int, n_accesses: int, now_jiffies: int, source: int
    ) -> int:
        """Take a report of as many accesses to each folio of a range: ``pghot_record_range()``.

        Returns:
            How many folios were recorded, or -EINVAL.
        """
        end = pfn + n_pages
        if n_pages == 0 or end >= 1 << 64:
            return -EINVAL
        checked = self._check_report(nid, n_accesses, source)
        if checked <= 0:
            return checked
        n_recorded = 0
        while pfn < end:
            n_steps, recorded = self._record_page(pfn, nid, n_accesses, now_jiffies)
            n_recorded += recorded
            pfn += n_steps
        return n_recorded

    def report_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`: who counts does not know the node."""
        self._record_many(pfns, self._reported_nids(nids), jiffies, counts)

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        self._record_many(pfns, nids, jiffies, np.ones(len(pfns), dtype=np.int64))

    def _record_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """Take reports, one after the other."""
        if self._report_each(pfns, nids, jiffies, counts):
            return
        rows = zip(pfns.tolist(), nids.tolist(), counts.tolist(), jiffies.tolist(), strict=True)
        for pfn, nid, n_accesses, now_jiffies in rows:
            self.record_accesses(pfn, nid, n_accesses, now_jiffies, self._source)

    def _reported_nids(self, nids: NDArray[np.int32]) -> NDArray[np.int32]:
        """See :class:`SectionFlag`; who counts does not know the node."""
        return np.full_like(nids, NUMA_NO_NODE)

    @property
    def _source(self) -> int:
        return HINTFAULTS if self.hint_faults else HWHINTS

    @property
    def _source_counter(self) -> str:
        """See :class:`SectionFlag`."""
        return _RECORDED[self._source]

    def _check_report(self, nid: int, n_accesses: int, source: int) -> int:
        """``pghot_record_common()``: 1 for a report to be taken, 0 where its source is off, or -EINVAL."""
        if n_accesses == 0 or not self._nid_valid(nid) or source not in _RECORDED:
            return -EINVAL
        if not self._enabled_sources & source:
            return 0
        self.counters[_RECORDED[source]] += 1
        return 1

    def _nid_valid(self, nid: int) -> bool:
        """``pghot_nid_valid()``."""
        return super()._nid_valid(nid) and (
            not self._fmt.has_nid or nid == NUMA_NO_NODE or nid in self._with_memory
        )

    def _record_page(self, pfn: int, nid: int, n_accesses: int, now_jiffies: int) -> tuple[int, bool]:
        """Record accesses to a page's folio; return how far a range steps from here, and whether it was.

        ``pghot_record_page()``: what cannot be promoted is a step of one page, a folio off its LRU list is
        stepped over whole.
        """
        machine = self.machine
        position = machine.position(pfn)
        if position < 0:
            return 1, False
        page = machine.page(position)
        if page.nid == nid or not page.online or not self._lower.holds(page.nid, pfn):
            return 1, False
        n_steps = page.n_pages - (position - page.head)
        section = self._section(page.head)
        if not page.lru or not self._has_hot_map(section):
            return n_steps, False
        self.counters["pghot_recorded_accesses"] += n_accesses
        target, ready = self._count(page.head, page.nid, nid, n_accesses, now_jiffies)
        self._charge(1 + 2 * ready, atomics=1 + 2 * ready)
        if ready:
            self._hot[section] = True
            self._active.add(page.nid)
            self.ledger.ask(page.head, target, keeps_nid=self._fmt.has_nid)
        return n_steps, True

    def _count(
        self, position: int, own_nid: int, nid: int, n_accesses: int, now_jiffies: int
    ) -> tuple[int, bool]:
        """Count accesses in a record; return target and whether it is READY: ``pghot_update_record()``."""
        fmt, word = self._fmt, int(self.records[position])
        n_accesses = min(n_accesses, fmt.freq.max)
        fresh = (
            self._latency_ms(word >> fmt.time.shift & fmt.time.max, now_jiffies) <= self.tunables.window_ms
        )
        self._remember(position, now_jiffies, fresh=fresh)
        freq = (
            min((word >> fmt.freq.shift & fmt.freq.max) + n_accesses, fmt.freq.max) if fresh else n_accesses
        )
        ready = freq >= self.tunables.freq_threshold
        new, target = 0, nid
        if fmt.has_nid and nid != NUMA_NO_NODE:
            new = (nid & fmt.nid.max) << fmt.nid.shift | NID_KNOWN
        elif fmt.has_nid and word & NID_KNOWN:
            new = word & (fmt.nid.mask | NID_KNOWN)
            target = word >> fmt.nid.shift & fmt.nid.max
        elif nid == NUMA_NO_NODE:
            target = self.promotion_target(own_nid)
        new |= freq << fmt.freq.shift | fmt.time_of(now_jiffies) << fmt.time.shift | ready << fmt.ready.shift
        self.records[position] = new
        if word & fmt.ready.mask and not ready:
            self.ledger.end_pending(position, COOLED)
        return target, ready

    def _coming(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> Coming | None:
        """See :class:`SectionFlag`; what comes from a source that is not enabled is not even counted."""
        coming = super()._coming(pfns, nids, jiffies, counts)
        if coming is not None and not self._enabled_sources & self._source:
            coming.valid.fill(False)
            coming.reports.does.fill(NOT_RECORDED)
        return coming

    def _targets_of_reports(
        self, nids: NDArray[np.int32], own_nids: NDArray[np.int64], recorded: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """See :class:`SectionFlag`."""
        targets = nids.copy()
        unknown = recorded & (nids == NUMA_NO_NODE)
        for nid in np.unique(own_nids[unknown]).tolist():
            targets[unknown & (own_nids == nid)] = self.promotion_target(nid)
        return targets

    def _ask_each(self, reports: Reports, times_ns: NDArray[np.int64] | None) -> None:
        """See :class:`SectionFlag`; a page may ask before it cools, and again after that."""
        if not (reports.does == COOLS).any():
            super()._ask_each(reports, times_ns)
            return
        keeps_nid = self._fmt.has_nid
        for at in np.flatnonzero((reports.does == ASKS) | (reports.does == COOLS)).tolist():
            position = int(reports.positions[at])
            if reports.does[at] == COOLS:
                self.ledger.end_pending(position, COOLED)
            else:
                time_ns = None if times_ns is None else int(times_ns[at])
                self.ledger.ask(position, int(reports.targets[at]), keeps_nid=keeps_nid, time_ns=time_ns)

    # -- the thread

    def _targets(self, positions: NDArray[np.int64], own_nids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`SectionFlag`; where nobody knew one, the promotion target, which may be none."""
        nids = np.full(len(positions), NUMA_NO_NODE, dtype=np.int64)
        known = np.zeros(len(positions), dtype=np.bool_)
        if self._fmt.has_nid:
            words = self.records[positions].astype(np.int64)
            known = words & NID_KNOWN != 0
            nids[known] = words[known] >> self._fmt.nid.shift & self._fmt.nid.max
        for nid in np.unique(own_nids[~known]).tolist():
            nids[~known & (own_nids == nid)] = self.promotion_target(nid)
        return nids

    def _has_room(self, nid: int) -> bool:
        """See :class:`SectionFlag`; a node without memory has none to spare."""
        return nid in self._with_memory and super()._has_room(nid)

    def _refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """See :class:`SectionFlag`; ``migrate_balanced_pgdat()`` wants a zone with memory."""
        refused = super()._refusals(heads, nids)
        refused[~np.isin(nids, list(self._with_memory))] = NOT_ASKED
        return refused


def _made(machine: Machine, policy: Policy) -> SectionFlagNext:
    defaults = NextTunables()
    tunables = NextTunables(
        "pghot" if policy.record_format == "pghot" else "pghot-compact",
        freq_threshold=policy.freq_threshold,
        freq_window_ms=policy.window_ns // NS_PER_MS or None,
        rate_limit_mbps=policy.rate_limit_bytes_per_s // MIB or defaults.rate_limit_mbps,
        hz=policy.hz,
        enabled_sources=HINTFAULTS | HWHINTS,  # a workload has one producer, and wants what it has
    )
    return SectionFlagNext(machine, tunables)


def _metadata_bytes(machine: SimulatedMachine, policy: Policy, n_asked: int) -> int:
    nodes = machine.topology.nodes
    tracked = sum(node.present_pages for node in nodes if not machine.top_tier[node.nid])
    return POSTED.metadata_bytes(machine, policy, n_asked) + tracked // SECTION_PAGES * _HOT_MAP_HEADER_BYTES


assert POSTED.model is not None
DESIGN = replace(
    POSTED,
    name="section-flag-next",
    line="pghot after v7: reports with a count, ranges, the nearest node of the top tier; "
    "github.com/davidlohr/linux at bef84326d61f; `policy.record_format` as for `section-flag`",
    kind="in a tree",
    order=35,
    metadata_bytes=_metadata_bytes,
    plot=PlotStyle(order=55, line={"color": "#CC79A7", "linewidth": 2.0, "linestyle": ":"}),
    model=replace(POSTED.model, make=_made),
)
