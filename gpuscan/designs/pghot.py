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

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.designs.candidates import ready_in_ranges
from gpuscan.designs.machine import Machine, Pages, ZoneSpan
from gpuscan.designs.pghot_marks import PghotRecords, PghotTunables
from gpuscan.designs.promotion_limit import Admission, Asked, PromotionLimit
from gpuscan.designs.races import Race
from gpuscan.designs.taking import GOES, NOT_ADMITTED, PGHOT, REFUSED, Batch, Window
from gpuscan.records.formats import unpack
from gpuscan.records.page_map import SECTION_PAGES


class _Seen(NamedTuple):
    """READY pages as a walk sees them: what they are, which are looked at, what the rate limit is asked."""

    pages: Pages
    looked: NDArray[np.bool_]
    asked: Asked

    def first(self, n: int) -> _Seen:
        """Return the first of them."""
        return _Seen(self.pages.first(n), self.looked[:n], self.asked.first(n))


class SectionFlag(PghotRecords):
    """pghot on one machine.

    Args:
        machine: whose pages are walked.
        tunables: see there.

    Raises:
        InputError: ``hz`` does not divide 1000.
    """

    def __init__(self, machine: Machine, tunables: PghotTunables | None = None) -> None:
        super().__init__(machine, tunables)
        self.sleep_ns = self.tunables.sleep_ms * 1_000_000
        self.batch_folios = self.tunables.batch_nr
        self._limit = PromotionLimit(self.tunables.rate_limit_mbps, self.tunables.window_ms)
        self._now_jiffies = 0  # of the walk

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one ``kmigrated_do_work()`` of a node below the top tier; time stands still meanwhile."""
        machine, counters = self.machine, self.counters
        self._active.discard(nid)
        self._now_jiffies = now_jiffies
        counters["walks"] += 1
        counters["sections_examined"] += len(machine.sections())
        sections = [at for at in np.flatnonzero(self._hot).tolist() if self._section_nid(at) == nid]
        self._hot[sections] = False  # none of them is without records
        spans = [ZoneSpan(nid, at * SECTION_PAGES, (at + 1) * SECTION_PAGES) for at in sections]
        ranges = [machine.ranges(span.start_pfn, span.end_pfn) for span in spans]
        n_ranges = np.cumsum([len(its) for its in ranges], dtype=np.int64)
        positions, range_ends = ready_in_ranges(self.records, list(chain(*ranges)), self._fmt.ready.mask)
        ends = np.concatenate(([0], range_ends))[n_ranges]
        done, n_ahead = 0, len(spans)
        while done < len(spans):
            part = slice(done, done + n_ahead)
            before = int(ends[done - 1]) if done else 0
            n_walked = self._walk_together(spans[part], positions[before:], ends[part] - before)
            if not n_walked:
                self._walk_section(spans[done], positions[before : ends[done]])
                n_walked = 1
            done, n_ahead = done + n_walked, 2 * n_walked

    def _walk_section(self, span: ZoneSpan, positions: NDArray[np.int64]) -> None:
        """Walk a section; ``positions``: its READY pages."""
        self._enter([self.n_examined(span)])
        self.span = span
        batch = Batch(PGHOT, self.batch_folios)

        def look(part: slice) -> Window:
            return self._window(positions[part], self._see(positions[part], span.nid))

        self._take_all(len(positions), look, batch)
        if batch.heads:
            self._hand_over(*batch.take_all(), batch.nid)

    def _walk_together(
        self, spans: Sequence[ZoneSpan], positions: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> int:
        """Walk sections of a node up to one whose batches may change what is known of the pages of the next.

        Args:
            spans: the sections.
            positions: int64[n], their READY pages, and maybe more behind them.
            ends: int64[n_sections], how many those up to each have.

        Returns:
            How many sections were walked, none where the first is such a one.
        """
        positions = positions[: ends[-1]]
        seen = self._see(positions, spans[0].nid)
        n_spans = self._n_spans_steady(seen.asked, ends)
        if not n_spans:
            return 0
        spans, ends, n = spans[:n_spans], ends[:n_spans], int(ends[n_spans - 1])
        positions, seen = positions[:n], seen.first(n)
        starts = np.array([span.start_pfn for span in spans], dtype=np.int64)
        n_looks = self.machine.n_steps_each(starts, starts + SECTION_PAGES)
        self._enter(n_looks.tolist())
        self.span = None
        window, sizes = self._window(positions, seen), np.diff(ends, prepend=0)
        n_before = self.machine.pfns(positions) - np.repeat(starts, sizes)
        for at in np.flatnonzero((n_looks < SECTION_PAGES) & (sizes > 0)).tolist():
            part = slice(int(ends[at] - sizes[at]), int(ends[at]))
            n_before[part] = self.n_before(spans[at], self.machine.pfns(positions[part]))
        to_come = n_looks[::-1].cumsum()[::-1]  # with the section itself
        window.n_to_come = np.repeat(to_come, sizes) - n_before
        self._take_spans(window, Batch(PGHOT, self.batch_folios), ends, closes=True)
        return n_spans

    def _enter(self, n_looks: Sequence[int]) -> None:
        """Count sections that are walked, of so many looks each."""
        self.counters["sections_walked"] += len(n_looks)
        self.counters["pfns_examined"] += sum(n_looks)

    def _n_spans_steady(self, asked: Asked, ends: NDArray[np.int64]) -> int:
        """Return in how many sections, whose pages end at ``ends``, all that may move leaves it as it is
        whether its target is balanced, and has room."""
        n_spans = len(ends)
        for nid in distinct(asked.nids[asked.at_stake]):
            n_pages = np.where(asked.at_stake & (asked.nids == nid), asked.n_pages, 0)
            n_at_most = np.concatenate(([0], n_pages.cumsum()))[ends]
            n_fit = np.searchsorted(n_at_most, self.machine.steady_pages(nid), side="right")
            n_spans = min(n_spans, int(n_fit))
        return n_spans

    def _see(self, positions: NDArray[np.int64], nid: int) -> _Seen:
        """Return what the walk of a node sees at positions: ``pghot_get_record()``."""
        machine, fields = self.machine, unpack(self._fmt, self.records[positions])
        now_jiffies = self._now_jiffies
        pages = machine.pages(positions)
        looked = pages.online & (pages.head == positions) & (pages.nid == nid) & fields.ready
        nids = self._targets(positions, pages.nid)
        at_stake = looked & pages.lru & (pages.nid != nids) & self._have_memory(nids)
        age_jiffies = now_jiffies + 1 - self._last_access[positions].astype(np.int64)
        # Time stands still in a walk, but not for a page that was marked ahead of it: that one is not of old.
        now = now_jiffies + np.maximum(0, -age_jiffies)
        latency_jiffies = (now >> self._fmt.jiffies_shift) - fields.time & self._fmt.time.max
        latency_ms = self._ms(latency_jiffies << self._fmt.jiffies_shift)
        return _Seen(pages, looked, Asked(nids, pages.n_pages, latency_ms, self._ms(now_jiffies), at_stake))

    def _window(self, positions: NDArray[np.int64], seen: _Seen) -> Window:
        """Return what was seen, and what the rate limit and the checks say of it."""
        pages, nids = seen.pages, seen.asked.nids
        return Window(
            positions,
            pages,
            nids,
            self.machine.memcgs(pages.head),
            seen.looked,
            Admission(self._limit, seen.asked, self._has_room),
            self._refusals(pages.head, nids),
            self.machine.draws(len(positions)),
        )

    def _targets(self, positions: NDArray[np.int64], own_nids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where READY records say that pages shall go: of ``pghot_get_record()``.

        Args:
            positions: of the records.
            own_nids: where the pages are.
        """
        if not self._fmt.has_nid:
            return np.full(len(positions), self.tunables.target_nid, dtype=np.int64)
        return unpack(self._fmt, self.records[positions]).nid.astype(np.int64)

    def _has_room(self, nid: int) -> bool:
        """Whether a target has free memory to spare, so that no rate limit is asked."""
        return self.machine.free_space_enough(nid)

    def _refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return what the checks would say: see :meth:`gpuscan.designs.machine.Machine.refusals`."""
        return self.machine.refusals(heads, nids)

    def _clear(self, positions: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.designs.model.Model`: the whole record is zeroed."""
        self.records[positions] = 0

    def _book(self, window: Window, became: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """See :class:`gpuscan.designs.model.Model`; what looked recent only since TIME wraps is counted."""
        assert window.admission is not None
        window.admission.commit(len(became), self.counters, with_room="pgpromote_candidate_nrl")
        heads = window.pages.head[: len(became)]
        goes = became == GOES
        ages = self._now_jiffies + 1 - self._last_access[heads].astype(np.int64)
        wrapped = (ages >= self._fmt.wrap_jiffies()) | self._looked_fresh[heads]
        asked = (became == NOT_ADMITTED) | (became == REFUSED) | goes
        self._looked_fresh[heads[asked]] = False
        self.counters["false_promotions"] += int(np.count_nonzero(wrapped & goes))
        return super()._book(window, became)
