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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.lower_tier import LowerTier
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine, ZoneSpan
from gpuscan.designs.model import Model, sorted_candidates
from gpuscan.designs.pghot_records import ASKS, Records, Rules, count_as_posted
from gpuscan.designs.promotion_limit import Admission, Asked, PromotionLimit
from gpuscan.designs.races import Race
from gpuscan.designs.requests import STRANDED
from gpuscan.designs.taking import GOES, NOT_ADMITTED, PGHOT, REFUSED, Batch, Window
from gpuscan.designs.tunables import MIB, NS_PER_MS, Bound, Divisor, Tuning, rate_limit_bounds, whole_ms
from gpuscan.records.formats import N_NODES_MAX, Field, record_format, unpack
from gpuscan.records.page_map import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

_WINDOW_MS = {"pghot-compact": 3000, "pghot": 5000}
UNKNOWN = -1
"""Nobody has asked yet whether a section has records."""
_Jiffies = TypeVar("_Jiffies", int, NDArray[np.int64])
_MS_PER_S = 1000
_HOT_MAP_BYTES = 8
"""A pointer in each ``struct mem_section``."""


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


class SectionFlag(Model):
    """pghot on one machine.

    Args:
        machine: whose pages are walked.
        tunables: see there.

    Raises:
        InputError: ``hz`` does not divide 1000.
    """

    def __init__(self, machine: Machine, tunables: PghotTunables | None = None) -> None:
        super().__init__(machine)
        self.tunables = tunables or PghotTunables()
        if _MS_PER_S % self.tunables.hz:
            raise InputError(f"pghot with {self.tunables.hz} jiffies a second; give a divisor of 1000")
        self.sleep_ns = self.tunables.sleep_ms * 1_000_000
        self.batch_folios = self.tunables.batch_nr
        self._fmt = record_format(self.tunables.record_format)
        self.records: NDArray[Any] = np.zeros(machine.n_positions, dtype=self._fmt.dtype)
        """One record per page, of the tunables' format; a folio's is that of its first page."""
        self._hot: set[int] = set()
        self._limit = PromotionLimit(self.tunables.rate_limit_mbps, self.tunables.window_ms)
        # Jiffies + 1 of the last access as it really was, 0: none. Pages never recorded take no memory.
        self._last_access = np.zeros(machine.n_positions, dtype=np.int64)
        self._looked_fresh = np.zeros(machine.n_positions, dtype=np.bool_)
        self._now_jiffies = 0  # of the walk
        self._nid_of_section: dict[int, int] = {}  # memory stays where it is
        self._counted = Records(self.records, self._last_access, self._looked_fresh)
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
        self._hot.add(span.start_pfn // SECTION_PAGES)

    def section_hot(self, section: int) -> bool:
        """Whether PGHOT_SECTION_HOT_BIT of a section (PFN / 32,768) is set."""
        return section in self._hot

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
        return np.isin(self.machine.pfns(positions) // SECTION_PAGES, list(self._hot))

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
            self._hot.add(section)
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
        heads = self._whole_folios(pfns)
        if heads is None:
            super().mark_many(pfns, nids, jiffies, cpus)
            return
        own_nids, does = self._can_record("pghot_recorded_hintfaults", pfns, nids, heads)
        n_recorded = int(np.count_nonzero(does))
        if not n_recorded:
            return
        self.counters["pghot_recorded_accesses"] += n_recorded
        targets = np.where(nids == NUMA_NO_NODE, self.tunables.target_nid, nids).astype(np.int32)
        n_ready = count_as_posted(self._counted, self._rules, heads, targets, jiffies, does)
        ready = does == ASKS
        self.ledger.ask_many(heads[ready], targets[ready], keeps_nid=self._fmt.has_nid)
        self._made_ready(pfns, own_nids, does, n_recorded, n_ready)

    def _whole_folios(self, pfns: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return int64[n], the position of each page, -1 of one that is no folio; None where any is inside a
        large one."""
        machine = self.machine
        heads = machine.lru_heads(pfns)
        if (heads != machine.online_positions(pfns))[heads >= 0].any():
            return None
        return heads

    def _can_record(
        self, counter: str, pfns: NDArray[np.int64], nids: NDArray[np.int32], heads: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Count reports whose node can be recorded; return the node of each page, and int8[n] that is
        NOT_RECORDED where nothing is."""
        recorded = heads >= 0
        if self._fmt.has_nid:
            valid = _by_value(nids, self._nid_valid)
            recorded &= valid
            self.counters[counter] += int(np.count_nonzero(valid))
        else:
            self.counters[counter] += len(pfns)
        own_nids = self.machine.nids_at(np.maximum(heads, 0))
        recorded &= (own_nids != nids) & self._lower.holds_each(own_nids, pfns)
        recorded[recorded] = self._have_hot_maps(pfns[recorded] // SECTION_PAGES)
        return own_nids, recorded.astype(np.int8)

    def _have_hot_maps(self, sections: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Do :meth:`_has_hot_map` for present sections, each asked once."""
        known = self._hot_maps[sections]
        if (known < 0).any():
            for section in np.unique(sections[known < 0]).tolist():
                self._hot_maps[section] = self._has_hot_map(section)
            known = self._hot_maps[sections]
        have: NDArray[np.bool_] = known == 1
        return have

    def _made_ready(
        self,
        pfns: NDArray[np.int64],
        own_nids: NDArray[np.int64],
        does: NDArray[np.int8],
        n_recorded: int,
        n_ready: int,
    ) -> None:
        """Charge reports that were counted, and set the flags for those that made a page READY."""
        self._charge(3, atomics=3, n_marks=n_ready)
        self._charge(1, atomics=1, n_marks=n_recorded - n_ready)
        if n_ready:
            ready = does == ASKS
            self._hot.update((pfns[ready] // SECTION_PAGES).tolist())
            self._active.update(own_nids[ready].tolist())

    def _nid_valid(self, nid: int) -> bool:
        """``pghot_nid_valid()``: the precise record keeps the node, so it must be one to promote to."""
        if not self._fmt.has_nid or nid == NUMA_NO_NODE:
            return True
        return 0 <= nid < N_NODES_MAX and nid in self.machine.nids and self.machine.is_top_tier(nid)

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one ``kmigrated_do_work()`` of a node below the top tier; time stands still meanwhile."""
        machine, counters = self.machine, self.counters
        self._active.discard(nid)
        self._now_jiffies = now_jiffies
        counters["walks"] += 1
        counters["sections_examined"] += len(machine.sections())
        for section in sorted(self._hot):  # none of them without records
            if self._section_nid(section) == nid:
                self._hot.discard(section)
                start_pfn = section * SECTION_PAGES
                self._walk_section(ZoneSpan(nid, start_pfn, start_pfn + SECTION_PAGES), now_jiffies)

    def _walk_section(self, span: ZoneSpan, now_jiffies: int) -> None:
        machine, counters = self.machine, self.counters
        self.span = span
        counters["sections_walked"] += 1
        counters["pfns_examined"] += self.n_examined(span)
        batch = Batch(PGHOT, self.batch_folios)
        ranges = machine.ranges(span.start_pfn, span.end_pfn)
        positions = sorted_candidates(self.records, self._fmt.ready.mask, ranges)
        self._take_all(len(positions), lambda part: self._look(positions[part], span, now_jiffies), batch)
        if batch.heads:
            self._hand_over(*batch.take_all(), batch.nid)

    def _look(self, positions: NDArray[np.int64], span: ZoneSpan, now_jiffies: int) -> Window:
        """Return what the walk of a section finds at positions: ``pghot_get_record()`` and the checks."""
        machine, fields = self.machine, unpack(self._fmt, self.records[positions])
        pages = machine.pages(positions)
        looked = pages.online & (pages.head == positions) & (pages.nid == span.nid) & fields.ready
        nids = self._targets(positions, pages.nid)
        at_stake = looked & pages.lru & (pages.nid != nids) & self._have_memory(nids)
        age_jiffies = now_jiffies + 1 - self._last_access[positions]
        # Time stands still in a walk, but not for a page that was marked ahead of it: that one is not of old.
        now = now_jiffies + np.maximum(0, -age_jiffies)
        latency_jiffies = (now >> self._fmt.jiffies_shift) - fields.time & self._fmt.time.max
        latency_ms = self._ms(latency_jiffies << self._fmt.jiffies_shift)
        return Window(
            positions,
            pages,
            nids,
            machine.memcgs(pages.head),
            looked,
            Admission(
                self._limit,
                Asked(nids, pages.n_pages, latency_ms, self._ms(now_jiffies), at_stake),
                self._has_room,
            ),
            self._refusals(pages.head, nids),
            machine.draws(len(positions)),
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
        ages = self._now_jiffies + 1 - self._last_access[heads]
        wrapped = (ages >= self._fmt.wrap_jiffies()) | self._looked_fresh[heads]
        asked = (became == NOT_ADMITTED) | (became == REFUSED) | goes
        self._looked_fresh[heads[asked]] = False
        self.counters["false_promotions"] += int(np.count_nonzero(wrapped & goes))
        return super()._book(window, became)

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
        self._looked_fresh[position] = fresh and age_ms > self.tunables.window_ms

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


def _format_of(policy: Policy) -> Literal["pghot", "pghot-compact"]:
    """Return the record format: precise for ``pghot``, compact for anything else."""
    return "pghot" if policy.record_format == "pghot" else "pghot-compact"


def _made(machine: Machine, policy: Policy) -> SectionFlag:
    defaults = PghotTunables()
    tunables = PghotTunables(
        _format_of(policy),
        target_nid=min(nid for nid in machine.nids if machine.is_top_tier(nid)),
        freq_threshold=policy.freq_threshold,
        freq_window_ms=policy.window_ns // NS_PER_MS or None,
        rate_limit_mbps=policy.rate_limit_bytes_per_s // MIB or defaults.rate_limit_mbps,
        hz=policy.hz,
    )
    return SectionFlag(machine, tunables)


def _bounds(tuning: Tuning) -> Iterator[Bound | Divisor]:
    policy = tuning.policy
    yield whole_ms(policy)
    yield from rate_limit_bounds(policy)
    fmt = record_format(_format_of(policy))
    mode = "precise mode" if fmt.has_nid else "compact mode"
    most = f"PGHOT_FREQ_MAX, {mode}"
    yield Bound("policy.freq_threshold", policy.freq_threshold, 1, fmt.freq.max, "", most)
    window_ms = policy.window_ns / NS_PER_MS
    if window_ms:
        most_ms = fmt.time.max << fmt.jiffies_shift
        yield Bound("policy.window", window_ms, 1000, most_ms, " ms", f"PGHOT_FREQ_WINDOW_MAX, {mode}")
    if tuning.sleep_ns is not None:
        sleep_ms = tuning.sleep_ns / NS_PER_MS
        yield Bound("interval", sleep_ms, 50, 1000, " ms", "KMIGRATED_SLEEP_MS_MIN and _MAX")
    if tuning.batch_folios is not None:
        yield Bound("batch", tuning.batch_folios, 64, 1024, " folios", "KMIGRATED_BATCH_NR_MIN and _MAX")


def _metadata_bytes(machine: SimulatedMachine, policy: Policy, _: int) -> int:
    nodes = machine.topology.nodes
    tracked = sum(node.present_pages for node in nodes if not machine.top_tier[node.nid])
    n_sections = machine.page_map.n_present_pages // SECTION_PAGES
    return tracked * record_format(_format_of(policy)).n_bytes + n_sections * _HOT_MAP_BYTES


DESIGN = Design(
    name="section-flag",
    line='pghot, "[PATCH v7 0/7] mm: Hot page tracking and promotion infrastructure", B. Rao, linux-mm, '
    "2026-05-04; `policy.record_format` `pghot` is the precise mode, anything else the compact one",
    kind="as posted",
    order=30,
    looks_at="pages",
    counts_accesses="always",
    asks_time=True,
    threshold=True,
    bounds=_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=lambda policy: record_format(_format_of(policy)).n_bytes,
    look="section walk",
    scan=(
        Charge("section check"),
        Charge("section walk", lambda size: size.marked_sections),
    ),
    mark="record",
    beside="section walk",
    plot=PlotStyle(order=50, line={"color": "#CC79A7", "linewidth": 2.0}),
    model=Modelled(
        make=_made,
        needs_flag=True,
        bypasses_thp=False,
        locks_records=False,
        two_atomics=False,
    ),
)
