"""What producers do to the records of pghot, and which section a thread is to look at.

The walk of the threads is in :mod:`gpuscan.designs.pghot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.base.errors import InputError
from gpuscan.designs.lower_tier import LowerTier
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine, ZoneSpan
from gpuscan.designs.model import MarksAhead, Meeting, Model
from gpuscan.designs.pghot_records import (
    ASKS,
    DURING,
    NOT_RECORDED,
    Records,
    Reports,
    Rules,
    Sections,
    count_reports,
    meet_reports,
)
from gpuscan.designs.requests import STRANDED
from gpuscan.records.formats import N_NODES_MAX, Field, record_format, unpack
from gpuscan.records.page_map import SECTION_PAGES

_WINDOW_MS = {"pghot-compact": 3000, "pghot": 5000}
INT32_MAX = (1 << 31) - 1
UNKNOWN = -1
"""Nobody has asked yet whether a section has records."""
_Jiffies = TypeVar("_Jiffies", int, NDArray[np.int64])
_MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class PghotTunables:
    """The tunables of pghot, with its defaults.

    Attributes:
        record_format: ``pghot-compact`` (1 byte a page, one target for all) or ``pghot`` (precise).
        target_nid: where ``pghot-compact`` promotes to (``pghot_target_nid``).
        freq_threshold: accesses within a window that make a page READY.
        freq_window_ms: that window; None: 3000 compact, 5000 precise.
        batch_nr: ``kmigrated_batch_nr``; a batch is flushed by the folio that exceeds it.
        sleep_ms: ``kmigrated_sleep_ms``.
        rate_limit_mbps: MiB per second and target.
        hz: jiffies per second, a divisor of 1000.
    """

    record_format: Literal["pghot", "pghot-compact"] = "pghot-compact"
    target_nid: int = 0
    freq_threshold: int = 2
    freq_window_ms: int | None = None
    batch_nr: int = 512
    sleep_ms: int = 100
    rate_limit_mbps: int = 65_536
    hz: int = 1000

    @property
    def window_ms(self) -> int:
        """The window in force."""
        return _WINDOW_MS[self.record_format] if self.freq_window_ms is None else self.freq_window_ms


class Coming(NamedTuple):
    """Reports, and what is known of them before they are counted.

    Attributes:
        pfns, own_nids: int64[n], of each page, and the node that it is on.
        valid: bool[n], the node that it names can be.
        reports: the rest.
    """

    pfns: NDArray[np.int64]
    own_nids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    reports: Reports

    def part(self, which: NDArray[np.int64]) -> Coming:
        """Return some of them."""
        return Coming(self.pfns[which], self.own_nids[which], self.valid[which], self.reports.part(which))


class PghotRecords(Model):
    """The records of pghot on one machine, and the flags of its sections and nodes.

    Args:
        machine: whose pages are walked.
        tunables: see there.

    Raises:
        InputError: ``hz`` does not divide 1000.
    """

    _AS_POSTED: ClassVar[bool] = True
    """Whether records are counted in as in v7."""

    def __init__(self, machine: Machine, tunables: PghotTunables | None = None) -> None:
        super().__init__(machine)
        self.tunables = tunables or PghotTunables()
        if _MS_PER_S % self.tunables.hz:
            raise InputError(f"pghot with {self.tunables.hz} jiffies a second; give a divisor of 1000")
        self._fmt = record_format(self.tunables.record_format)
        self.records: NDArray[Any] = np.zeros(machine.n_positions, dtype=self._fmt.dtype)
        """One record per page, of the tunables' format; a folio's is that of its first page."""
        self._hot = np.zeros(max(machine.sections(), default=0) + 1, dtype=np.bool_)
        # Jiffies + 1 of the last access as it really was, 0: none. Pages never recorded take no memory.
        self._last_access = np.zeros(machine.n_positions, dtype=np.int32)
        self._looked_fresh = np.zeros(machine.n_positions, dtype=np.bool_)
        self._nid_of_section: dict[int, int] = {}  # memory stays where it is
        self._kept = Records(self.records, self._last_access, self._looked_fresh)
        tuned = self.tunables
        self._rules = Rules.of(self._fmt, tuned.freq_threshold, tuned.window_ms, tuned.hz)
        self._lower = LowerTier(machine)
        self._hot_maps = np.full(max(machine.sections(), default=0) + 1, UNKNOWN, dtype=np.int8)

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return not self.machine.is_top_tier(nid)

    def spans(self, nid: int) -> Sequence[ZoneSpan]:
        """See :class:`gpuscan.designs.model.Model`: the node's sections that have records."""
        starts = [
            section * SECTION_PAGES
            for section in self.machine.sections()
            if self._section_nid(section) == nid and self._has_hot_map(section)
        ]
        return [ZoneSpan(nid, start, start + SECTION_PAGES) for start in starts]

    def will_walk(self, span: ZoneSpan) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.section_hot(span.start_pfn // SECTION_PAGES)

    def raise_flag(self, span: ZoneSpan) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        self._hot[span.start_pfn // SECTION_PAGES] = True

    def section_hot(self, section: int) -> bool:
        """Whether PGHOT_SECTION_HOT_BIT of a section (PFN / 32,768) is set."""
        return bool(0 <= section < len(self._hot) and self._hot[section])

    def n_before(self, span: ZoneSpan, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.machine.steps_to(span.start_pfn, pfns)

    def n_examined(self, span: ZoneSpan) -> int:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.machine.n_steps(span.start_pfn, span.end_pfn)

    def stranded(self) -> int:
        """Return how many pending requests lie in sections whose hot bit is clear."""
        return int(np.count_nonzero(~self._in_hot_sections(self.ledger.pending_positions())))

    def finish(self) -> None:
        """Book what is stranded as lost: nothing but another access to the section would find it."""
        pending = self.ledger.pending_positions()
        self.ledger.end_pending_many(pending[~self._in_hot_sections(pending)], STRANDED)

    def _in_hot_sections(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._hot[self.machine.pfns(positions) // SECTION_PAGES]

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.record_access(pfn, nid, now_jiffies)

    def record_access(self, pfn: int, nid: int, now_jiffies: int) -> int:
        """Count an access: ``pghot_record_access(pfn, nid, PGHOT_HINTFAULTS, now)``.

        Args:
            pfn: the page.
            nid: node of the accessing CPU; -1 stands for ``target_nid``.
            now_jiffies: the time.

        Returns:
            0, also where nothing is recorded, or -EINVAL for a node that cannot be.
        """
        machine = self.machine
        if not self._nid_valid(nid):
            return -EINVAL
        self.counters["pghot_recorded_hintfaults"] += 1
        position = machine.position(pfn)
        if position < 0:
            return 0
        page = machine.page(position)
        if page.nid == nid or not page.online or not page.lru or not self._lower.holds(page.nid, pfn):
            return 0
        section = self._section(page.head)
        if not self._has_hot_map(section):
            return 0
        self.counters["pghot_recorded_accesses"] += 1
        ready = self._update(page.head, nid, now_jiffies)
        # The record's line; those of the section and of the node's flags once it is READY.
        self._charge(1 + 2 * ready, atomics=1 + 2 * ready)
        if ready:
            self._hot[section] = True
            self._active.add(page.nid)
            self.ledger.ask(
                page.head,
                self.tunables.target_nid if nid == NUMA_NO_NODE else nid,
                keeps_nid=self._fmt.has_nid,
            )
        return 0

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        if not self._report_each(pfns, nids, jiffies, np.ones(len(pfns), dtype=np.int64)):
            super().mark_many(pfns, nids, jiffies, cpus)

    def _report_each(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> bool:
        """Take reports of so many accesses each, one after the other; False, and nothing is done, where a
        page is inside a large folio."""
        coming = self._coming(pfns, nids, jiffies, counts)
        if coming is None:
            return False
        count_reports(self._kept, self._rules, coming.reports, self._AS_POSTED)
        self._book_reports(coming)
        return True

    def meet(
        self,
        spans: Sequence[ZoneSpan],
        ends: NDArray[np.int64],
        marks: MarksAhead,
        start_ns: int,
        look_ns: float,
    ) -> Meeting | None:
        """See :class:`gpuscan.designs.model.Model`."""
        counts = np.ones(len(marks.pfns), dtype=np.int64) if marks.counts is None else marks.counts
        nids = marks.nids if marks.counts is None else self._reported_nids(marks.nids)
        coming = self._coming(marks.pfns, nids, marks.jiffies, counts)
        if coming is None:
            return None
        firsts = np.array([span.start_pfn for span in spans], dtype=np.int64)
        n_looks = self.machine.n_steps_each(firsts, firsts + SECTION_PAGES)
        numbers, starts = firsts // SECTION_PAGES, np.diff(ends, prepend=0)
        n_before = marks.pfns - np.repeat(firsts, starts)
        for at in np.flatnonzero((n_looks < SECTION_PAGES) & (starts > 0)).tolist():
            part = slice(int(ends[at] - starts[at]), int(ends[at]))
            n_before[part] = self.n_before(spans[at], marks.pfns[part])
        sections = Sections(self._hot[numbers], n_looks, ends)
        met = np.zeros(len(marks.pfns), dtype=np.int8)
        meet_reports(
            self._kept,
            self._rules,
            sections,
            coming.reports,
            marks.times_ns,
            n_before,
            start_ns,
            look_ns,
            self._AS_POSTED,
            met,
        )
        made = np.flatnonzero(met)
        self._book_reports(coming.part(made), marks.times_ns[made])
        return Meeting(made, met[made] == DURING, coming.reports.does[made] == ASKS)

    def _whole_folios(self, pfns: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return int64[n], the position of each page, -1 of one that is no folio; None where any is inside a
        large one."""
        machine = self.machine
        heads = machine.lru_heads(pfns)
        if (heads != machine.online_positions(pfns))[heads >= 0].any():
            return None
        return heads

    def _coming(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> Coming | None:
        """Return what is known of reports before they are counted; None where a page is inside a large
        folio."""
        heads = self._whole_folios(pfns)
        if heads is None:
            return None
        if len(jiffies):
            self._check_time(int(jiffies.max()))
        recorded = heads >= 0
        valid = np.ones(len(pfns), dtype=np.bool_)
        if self._fmt.has_nid:
            valid = _by_value(nids, self._nid_valid)
            recorded &= valid
        own_nids = self.machine.nids_at(np.maximum(heads, 0))
        recorded &= (own_nids != nids) & self._lower.holds_each(own_nids, pfns)
        recorded[recorded] = self._have_hot_maps(pfns[recorded] // SECTION_PAGES)
        nids = nids.astype(np.int32)
        targets = self._targets_of_reports(nids, own_nids, recorded)
        does = recorded.astype(np.int8)
        return Coming(pfns, own_nids, valid, Reports(heads, nids, counts, jiffies, targets, does))

    def _targets_of_reports(
        self, nids: NDArray[np.int32], own_nids: NDArray[np.int64], recorded: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Return what reports ask for, as far as the record does not say."""
        return np.where(nids == NUMA_NO_NODE, np.int32(self.tunables.target_nid), nids)

    def _reported_nids(self, nids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the nodes of reports by somebody who counts and only guesses them."""
        return nids

    def _book_reports(self, coming: Coming, times_ns: NDArray[np.int64] | None = None) -> None:
        """Book reports that were counted.

        Args:
            coming: what they are, and did.
            times_ns: when each came, where that is told.
        """
        reports = coming.reports
        recorded, ready = reports.does != NOT_RECORDED, reports.does == ASKS
        if coming.valid.any():
            self.counters[self._source_counter] += int(np.count_nonzero(coming.valid))
        n_recorded, n_ready = int(np.count_nonzero(recorded)), int(np.count_nonzero(ready))
        if not n_recorded:
            return
        self.counters["pghot_recorded_accesses"] += int(reports.counts[recorded].sum())
        self._ask_each(reports, times_ns)
        self._charge(3, atomics=3, n_marks=n_ready)
        self._charge(1, atomics=1, n_marks=n_recorded - n_ready)
        if n_ready:
            self._hot[coming.pfns[ready] // SECTION_PAGES] = True
            self._active.update(distinct(coming.own_nids[ready]))

    def _ask_each(self, reports: Reports, times_ns: NDArray[np.int64] | None) -> None:
        """Begin the requests of reports that ask, and end those of pages that are not READY any more."""
        ready = reports.does == ASKS
        self.ledger.ask_many(
            reports.positions[ready],
            reports.targets[ready],
            keeps_nid=self._fmt.has_nid,
            times_ns=None if times_ns is None else times_ns[ready],
        )

    @property
    def _source_counter(self) -> str:
        """What counts reports of the source that there is."""
        return "pghot_recorded_hintfaults"

    def _have_hot_maps(self, sections: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Do :meth:`_has_hot_map` for present sections, each asked once."""
        known = self._hot_maps[sections]
        if (known < 0).any():
            for section in np.unique(sections[known < 0]).tolist():
                self._hot_maps[section] = self._has_hot_map(section)
            known = self._hot_maps[sections]
        have: NDArray[np.bool_] = known == 1
        return have

    def _nid_valid(self, nid: int) -> bool:
        """``pghot_nid_valid()``: the precise record keeps the node, so it must be one to promote to."""
        if not self._fmt.has_nid or nid == NUMA_NO_NODE:
            return True
        return 0 <= nid < N_NODES_MAX and nid in self.machine.nids and self.machine.is_top_tier(nid)

    def _update(self, position: int, nid: int, now_jiffies: int) -> bool:
        """Count an access in a record: ``pghot_update_record()``; return whether it is READY then."""
        fmt, tunables = self._fmt, self.tunables
        word = int(self.records[position])
        new_window = self._latency_ms(_get(word, fmt.time), now_jiffies) > tunables.window_ms
        self._remember(position, now_jiffies, fresh=not new_window)
        freq = 1 if new_window else min(_get(word, fmt.freq) + 1, fmt.freq.max)
        ready = word & fmt.ready.mask != 0 or freq >= tunables.freq_threshold
        target = tunables.target_nid if nid == NUMA_NO_NODE else nid
        word = ready << fmt.ready.shift | freq << fmt.freq.shift
        word |= fmt.time_of(now_jiffies) << fmt.time.shift | (target & fmt.nid.max) << fmt.nid.shift
        self.records[position] = word
        return ready

    def _remember(self, position: int, now_jiffies: int, *, fresh: bool) -> None:
        """Note whether TIME, which wraps around, made an old access look recent."""
        self._check_time(now_jiffies)
        before = int(self._last_access[position])
        self._last_access[position] = now_jiffies + 1
        age_ms = self._ms(now_jiffies + 1 - before) if before else 0
        self._looked_fresh[position] = fresh and age_ms > self.tunables.window_ms

    def _check_time(self, now_jiffies: int) -> None:
        """Refuse what does not fit where the last access of each page is kept.

        Raises:
            InputError: it does not.
        """
        if now_jiffies >= INT32_MAX:
            raise InputError(
                f"a time of {now_jiffies:,} jiffies is more than a model of pghot keeps (24 days at 1,000 a "
                "second); give a shorter run, or a lower policy.hz"
            )

    def _latency_ms(self, time: int, now_jiffies: int) -> int:
        """Return the age of a TIME, modulo its width: ``pghot_access_latency()``."""
        fmt = self._fmt
        return self._ms(((fmt.time_of(now_jiffies) - time) & fmt.time.max) << fmt.jiffies_shift)

    def _ms(self, jiffies: _Jiffies) -> _Jiffies:
        return jiffies * _MS_PER_S // self.tunables.hz

    def _section(self, position: int) -> int:
        return self.machine.pfn(position) // SECTION_PAGES

    def _section_nid(self, section: int) -> int:
        """Return the node of a section's first page, -1 where that is not valid."""
        nid = self._nid_of_section.get(section)
        if nid is None:
            first = self.machine.position(section * SECTION_PAGES)
            nid = NUMA_NO_NODE if first < 0 else self.machine.page(first).nid
            self._nid_of_section[section] = nid
        return nid

    def _has_hot_map(self, section: int) -> bool:
        """Whether the section has records: ``pghot_setup_hot_map()``."""
        nid = self._section_nid(section)
        return nid != NUMA_NO_NODE and not self.machine.is_top_tier(nid)

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return unpack(self._fmt, self.records[positions]).ready


def _by_value(values: NDArray[Any], holds: Callable[[int], bool]) -> NDArray[np.bool_]:
    """Return bool[n]: what ``holds`` says of each, asked once for each value."""
    found, which = np.unique(values, return_inverse=True)
    answers = np.array([holds(value) for value in found.tolist()], dtype=np.bool_)
    return answers[which]


def _get(word: int, field: Field) -> int:
    return word >> field.shift & field.max
