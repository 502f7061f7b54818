"""``section-flag``: pghot, which asks each section before it looks at its pages.

Pinned to "[PATCH v7 0/7] mm: Hot page tracking and promotion infrastructure" (B. Rao,
linux-mm, 2026-05-04), the first version that flushes on a change of memcg: mm/pghot.c
with the rate limit moved there from kernel/sched/fair.c, mm/pghot-default.c (record
format ``pghot-compact``) and mm/pghot-precise.c (``pghot``).

What differs from kmigrated as posted: accesses are counted, and only those to memory
below the top tier; the record lies with the folio's first page and is read and zeroed
in one atomic; a hot bit per section is cleared before the section is walked, so a folio
that cannot be taken just then stays READY where nothing looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.design import Design, sorted_candidates
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine, Page
from gpuscan.designs.requests import NOT_PROMOTED, STRANDED
from gpuscan.errors import InputError
from gpuscan.pagemap import SECTION_PAGES
from gpuscan.records import N_NODES_MAX, Field, record_format, unpack

KMIGRATED_MIGRATION_ADJUST_STEPS = 16
KMIGRATED_PROMOTION_THRESHOLD_WINDOW_MS = 60_000
_WINDOW_MS = {"pghot-compact": 3000, "pghot": 5000}
_MS_PER_S = 1000
_U32 = 0xFFFF_FFFF


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


@dataclass(slots=True)
class _PromotionState:
    """What ``pglist_data`` keeps for the rate limit of a target; times in ms."""

    n_candidate_pages: int = 0
    rl_start_ms: int = 0
    rl_candidate_pages: int = 0
    th_start_ms: int = 0
    th_candidate_pages: int = 0
    threshold_ms: int = 0


class SectionFlag(Design):
    """pghot on one machine.

    Args:
        machine: whose pages are walked.
        tunables: see there.

    Raises:
        InputError: ``hz`` does not divide 1000.
    """

    name: ClassVar[str] = "section-flag"
    needs_flag: ClassVar[bool] = True
    counts_accesses: ClassVar[bool] = True

    def __init__(self, machine: Machine, tunables: PghotTunables | None = None) -> None:
        super().__init__(machine)
        self.tunables = tunables or PghotTunables()
        if _MS_PER_S % self.tunables.hz:
            raise InputError(f"pghot with {self.tunables.hz} jiffies a second; give a divisor of 1000")
        self.sleep_ns = self.tunables.sleep_ms * 1_000_000
        self._fmt = record_format(self.tunables.record_format)
        self.records: NDArray[Any] = np.zeros(machine.n_positions, dtype=self._fmt.dtype)
        """One record per page, of the tunables' format; a folio's is that of its first page."""
        self._hot: set[int] = set()
        self._targets: dict[int, _PromotionState] = {}
        # Jiffies + 1 of the last access as it really was, 0: none. Pages never recorded take no memory.
        self._last_access = np.zeros(machine.n_positions, dtype=np.int64)
        self._looked_fresh: set[int] = set()

    @property
    def record_bytes(self) -> int:
        """See :class:`gpuscan.designs.design.Design`."""
        return self._fmt.n_bytes

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.design.Design`."""
        return not self.machine.is_top_tier(nid)

    def section_hot(self, section: int) -> bool:
        """Whether PGHOT_SECTION_HOT_BIT of a section (PFN / 32,768) is set."""
        return section in self._hot

    def stranded(self) -> int:
        """Return how many pending requests lie in sections whose hot bit is clear."""
        sections = [self._section(int(position)) for position in self.ledger.pending_positions()]
        return sum(section not in self._hot for section in sections)

    def finish(self) -> None:
        """Book what is stranded as lost: nothing but another access to the section would find it."""
        for position in self.ledger.pending_positions().tolist():
            if self._section(position) not in self._hot:
                self.ledger.end_pending(position, STRANDED)

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """See :class:`gpuscan.designs.design.Design`."""
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
        if page.nid == nid or machine.is_top_tier(page.nid) or not page.online or not page.lru:
            return 0
        if any(zone.device and zone.start_pfn <= pfn < zone.end_pfn for zone in machine.zones(page.nid)):
            return 0
        section = self._section(page.head)
        if not self._has_hot_map(section):
            return 0
        self.counters["pghot_recorded_accesses"] += 1
        if self._update(page.head, nid, now_jiffies):
            self._hot.add(section)
            self._active.add(page.nid)
            self.ledger.ask(
                page.head,
                self.tunables.target_nid if nid == NUMA_NO_NODE else nid,
                keeps_nid=self._fmt.has_nid,
            )
        return 0

    def _nid_valid(self, nid: int) -> bool:
        """``pghot_nid_valid()``: the precise record keeps the node, so it must be one to promote to."""
        if not self._fmt.has_nid or nid == NUMA_NO_NODE:
            return True
        return 0 <= nid < N_NODES_MAX and nid in self.machine.nids and self.machine.is_top_tier(nid)

    def walk(self, nid: int, now_jiffies: int = 0) -> None:
        """Do one ``kmigrated_do_work()`` of a node below the top tier; time stands still meanwhile."""
        machine, counters = self.machine, self.counters
        self._active.discard(nid)
        counters["walks"] += 1
        for section in machine.sections():
            counters["sections_examined"] += 1
            if self._section_nid(section) != nid or not self._has_hot_map(section):
                continue
            if section in self._hot:
                self._hot.discard(section)
                self._walk_section(section, nid, now_jiffies)

    def _walk_section(self, section: int, src_nid: int, now_jiffies: int) -> None:
        machine, counters = self.machine, self.counters
        start_pfn = section * SECTION_PAGES
        end_pfn = start_pfn + SECTION_PAGES
        counters["sections_walked"] += 1
        counters["pfns_examined"] += machine.n_steps(start_pfn, end_pfn)
        cur_nid, cur_memcg = NUMA_NO_NODE, 0
        migrate_list: list[int] = []
        batch_count = 0
        ranges = machine.ranges(start_pfn, end_pfn)
        for position in sorted_candidates(self.records, self._fmt.ready.mask, ranges):
            page = machine.page(position)
            if not page.online or page.head != position or page.nid != src_nid or not page.lru:
                continue
            nid, time = self._take(position)
            if not self._goes(page, nid, time, now_jiffies):
                continue
            memcg = machine.memcg(page.head)
            if cur_nid == NUMA_NO_NODE:
                cur_nid, cur_memcg = nid, memcg
            if cur_nid != nid or cur_memcg != memcg:
                if migrate_list:
                    self._flush(migrate_list, cur_nid)
                cur_nid, cur_memcg = nid, memcg
                batch_count = 0
                counters["cond_resched"] += 1
            migrate_list.append(page.head)
            batch_count += 1
            if batch_count > self.tunables.batch_nr:
                self._flush(migrate_list, cur_nid)
                batch_count = 0
                counters["cond_resched"] += 1
        if migrate_list:
            self._flush(migrate_list, cur_nid)

    def _take(self, position: int) -> tuple[int, int]:
        """Zero a READY record and return its target and TIME: ``pghot_get_record()``."""
        fmt, word = self._fmt, int(self.records[position])
        self.records[position] = 0
        self.counters["claimed"] += 1
        nid = _get(word, fmt.nid) if fmt.has_nid else self.tunables.target_nid
        return nid, _get(word, fmt.time)

    def _goes(self, page: Page, nid: int, time: int, now_jiffies: int) -> bool:
        """Check and isolate a claimed folio."""
        asked = self.ledger.claim(page.head)
        if self._at_home(page, nid, asked):
            return False
        fresh_once = page.head in self._looked_fresh
        self._looked_fresh.discard(page.head)
        age_jiffies = now_jiffies + 1 - int(self._last_access[page.head])
        there = nid in self.machine.nids
        if there and not self._should_migrate(page.n_pages, nid, time, now_jiffies):
            self.counters["not_promoted"] += 1
            self.ledger.lose(asked, NOT_PROMOTED)
            return False
        if not self._isolate(page, nid, asked):
            return False
        self.counters["false_promotions"] += fresh_once or age_jiffies >= self._fmt.wrap_jiffies()
        return True

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
        before = int(self._last_access[position])
        self._last_access[position] = now_jiffies + 1
        age_ms = self._ms(now_jiffies + 1 - before) if before else 0
        if fresh and age_ms > self.tunables.window_ms:
            self._looked_fresh.add(position)
        else:
            self._looked_fresh.discard(position)

    def _should_migrate(self, n_pages: int, nid: int, time: int, now_jiffies: int) -> bool:
        """Apply free-memory bypass, threshold and rate limit: ``kmigrated_should_migrate_memory()``."""
        counters, tunables = self.counters, self.tunables
        state = self._targets.setdefault(nid, _PromotionState())
        if self.machine.free_space_enough(nid):
            state.threshold_ms = 0
            counters["pgpromote_candidate_nrl"] += n_pages
            return True
        now_ms = self._ms(now_jiffies) & _U32
        limit_pages = tunables.rate_limit_mbps << 8  # MB_TO_PAGES with 4 KiB pages
        self._adjust_threshold(state, limit_pages, now_ms)
        if self._latency_ms(time, now_jiffies) >= (state.threshold_ms or tunables.window_ms):
            return False
        state.n_candidate_pages += n_pages
        counters["pgpromote_candidate"] += n_pages
        if (now_ms - state.rl_start_ms) & _U32 > _MS_PER_S:
            state.rl_start_ms = now_ms
            state.rl_candidate_pages = state.n_candidate_pages
        return state.n_candidate_pages - state.rl_candidate_pages < limit_pages

    def _adjust_threshold(self, state: _PromotionState, limit_pages: int, now_ms: int) -> None:
        """Move a target's threshold every minute: ``kmigrated_promotion_adjust_threshold()``."""
        window_ms = KMIGRATED_PROMOTION_THRESHOLD_WINDOW_MS
        if (now_ms - state.th_start_ms) & _U32 <= window_ms:
            return
        state.th_start_ms = now_ms
        default_ms = self.tunables.window_ms
        step_ms = default_ms * 2 // KMIGRATED_MIGRATION_ADJUST_STEPS
        threshold_ms = state.threshold_ms or default_ms
        reference_pages = limit_pages * window_ms // _MS_PER_S
        seen_pages = state.n_candidate_pages - state.th_candidate_pages
        if seen_pages > reference_pages * 11 // 10:
            threshold_ms = max(threshold_ms - step_ms, step_ms)
        elif seen_pages < reference_pages * 9 // 10:
            threshold_ms = min(threshold_ms + step_ms, default_ms * 2)
        state.th_candidate_pages = state.n_candidate_pages
        state.threshold_ms = threshold_ms

    def _latency_ms(self, time: int, now_jiffies: int) -> int:
        """Return the age of a TIME, modulo its width: ``pghot_access_latency()``."""
        fmt = self._fmt
        return self._ms(((fmt.time_of(now_jiffies) - time) & fmt.time.max) << fmt.jiffies_shift)

    def _ms(self, jiffies: int) -> int:
        return jiffies * _MS_PER_S // self.tunables.hz

    def _section(self, position: int) -> int:
        return self.machine.pfn(position) // SECTION_PAGES

    def _section_nid(self, section: int) -> int:
        """Return the node of a section's first page, -1 where that is not valid."""
        first = self.machine.position(section * SECTION_PAGES)
        return NUMA_NO_NODE if first < 0 else self.machine.page(first).nid

    def _has_hot_map(self, section: int) -> bool:
        """Whether the section has records: ``pghot_setup_hot_map()``."""
        nid = self._section_nid(section)
        return nid != NUMA_NO_NODE and not self.machine.is_top_tier(nid)

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return unpack(self._fmt, self.records[positions]).ready


def _get(word: int, field: Field) -> int:
    return word >> field.shift & field.max
