"""``rfc-v1`` and ``rfc-fixed``: kmigrated as posted, and the same without its slips.

"[RFC PATCH v1 3/4] mm: kmigrated - Async kernel migration thread" and "4/4 mm: sched:
Batch-migrate misplaced pages" (B. Rao, linux-mm, 2025-06-16). A record is the 32 bits
of ``page_ext->flags`` from PAGE_EXT_MIGRATE_READY on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.designs.candidates import MarkedLines, sorted_candidates
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine, Pages, ZoneSpan
from gpuscan.designs.model import Model
from gpuscan.designs.races import Race
from gpuscan.designs.requests import ALREADY_THERE, MASKED_NID, NO_THREAD, NOBODY
from gpuscan.designs.taking import KMIGRATED_FIXED, KMIGRATED_V1, Batch, Window
from gpuscan.records.formats import FORMATS

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

PAGE_EXT_BYTES = 8
"""``page_ext->flags``, an unsigned long; page_ext has more only with other users of it."""
KMIGRATE_BATCH = 512
KMIGRATE_DELAY_NS = 1_000_000_000
"""KMIGRATE_DELAY, MSEC_PER_SEC."""

_FORMAT = FORMATS["rfc"]
_READY = _FORMAT.ready.mask


class Kmigrated(Model):
    """The thread of RFC v1; what the two designs differ in are the class attributes.

    Args:
        machine: whose pages are walked.
        onlined_later: nodes that had no memory at boot. kmigrated_init() starts threads for N_MEMORY once,
            and nothing does so later.
    """

    NID_MASK: ClassVar[int]
    STEPS_OVER_FOLIOS: ClassVar[bool]
    RULE: ClassVar[int]

    def __init__(self, machine: Machine, onlined_later: Collection[int] = ()) -> None:
        super().__init__(machine)
        self._onlined_later = frozenset(onlined_later)
        self.sleep_ns = KMIGRATE_DELAY_NS
        self.batch_folios = KMIGRATE_BATCH
        self.records: NDArray[np.uint32] = np.zeros(machine.n_positions, dtype=np.uint32)
        """uint32[n_positions], format ``rfc``."""
        self._lines = MarkedLines(machine.n_positions)

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return nid not in self._onlined_later

    def spans(self, nid: int) -> Sequence[ZoneSpan]:
        """See :class:`gpuscan.designs.model.Model`: populated zones that are not ZONE_DEVICE."""
        zones = self.machine.zones(nid)
        return [zone for zone in zones if zone.start_pfn < zone.end_pfn and not zone.device]

    def n_before(self, span: ZoneSpan, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.model.Model`."""
        if self.STEPS_OVER_FOLIOS:
            return self.machine.steps_to(span.start_pfn, pfns, span.nid)
        return super().n_before(span, pfns)

    def n_examined(self, span: ZoneSpan) -> int:
        """See :class:`gpuscan.designs.model.Model`."""
        if self.STEPS_OVER_FOLIOS:
            return self.machine.n_steps(span.start_pfn, span.end_pfn, span.nid)
        return span.end_pfn - span.start_pfn

    def finish(self) -> None:
        """Book as lost what waits on nodes without a thread."""
        pending = self.ledger.pending_positions()
        nids = self.machine.nids_at(pending)
        for nid in distinct(nids):
            if not self.has_thread(nid):
                self.ledger.end_pending_many(pending[nids == nid], NO_THREAD)

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """See :class:`gpuscan.designs.model.Model`."""
        return self.request(pfn, nid)

    def request(self, pfn: int, nid: int) -> int:
        """Ask for a page to be moved: ``kmigrated_add_pfn()``.

        Returns:
            0, or -EINVAL for a page without page_ext: not valid, or not online.
        """
        position = self._marked_position(pfn)
        if position < 0:
            return -EINVAL
        self._exchange_nid(position, nid)
        self._set_ready(position, nid)
        self._activate(position)
        return 0

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`; of several marks of a page the last stays."""
        positions = self._marked_positions(pfns)
        there = positions >= 0
        n_marked = int(there.sum())
        if n_marked < len(pfns):
            self.counters["kmigrated_add_pfn_einval"] += len(pfns) - n_marked
        if not n_marked:
            return
        self._count_marks(n_marked)
        pfns, positions, nids = pfns[there], positions[there], nids[there]
        shift = _FORMAT.nid.shift
        targets = (nids & self.NID_MASK).astype(np.uint32) << np.uint32(shift) | np.uint32(_READY)
        self.records[positions] = self.records[positions] & ~np.uint32(self.NID_MASK << shift) | targets
        self._lines.note(positions)
        self.ledger.ask_many(positions, nids)
        self._activate_many(pfns, self.machine.nids_at(positions))

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one ``kmigrated_do_work()`` of a node.

        Args:
            nid: the node.
            now_jiffies: not used.
            races: producers that come in while the thread is at their page, at most one per page. One whose
                page the thread never asks about has its turn after the walk.
        """
        self._active.discard(nid)
        self.counters["walks"] += 1
        races = list(races)
        waiting = {self.machine.position(race.pfn): race for race in races}
        for zone in self.spans(nid):
            self._walk_zone(zone, waiting)
        for race in races:
            position = self.machine.position(race.pfn)
            if position < 0 or position in waiting:
                self.request(race.pfn, race.nid)

    def _walk_zone(self, zone: ZoneSpan, races: dict[int, Race]) -> None:
        machine, counters = self.machine, self.counters
        self.span = zone
        counters["zones_walked"] += 1
        counters["pfns_examined"] += self.n_examined(zone)
        batch = Batch(self.RULE, self.batch_folios)
        ranges = machine.ranges(zone.start_pfn, zone.end_pfn)
        positions = sorted_candidates(self.records, _READY, ranges, tuple(races), self._lines)
        start = 0
        for raced in np.flatnonzero(np.isin(positions, list(races))).tolist() if races else ():
            self._take_marked(positions[start:raced], zone, batch)
            self._take_raced(positions[raced : raced + 1], zone, batch, races)
            start = raced + 1
        self._take_marked(positions[start:], zone, batch)
        if batch.heads:
            self._hand_over(*batch.take_all(), batch.nid)

    def _take_marked(self, positions: NDArray[np.int64], zone: ZoneSpan, batch: Batch) -> None:
        """Take candidates at which no producer comes in."""
        self._take_all(len(positions), lambda part: self._look(positions[part], zone), batch)

    def _look(self, positions: NDArray[np.int64], zone: ZoneSpan) -> Window:
        """Return what the walk of a zone finds at positions, and where their records say they shall go."""
        words, pages = self.records[positions].astype(np.int64), self.machine.pages(positions)
        looked = self._looks_at(positions, pages, zone) & (words & _READY != 0)
        return self._window(positions, pages, words >> _FORMAT.nid.shift & self.NID_MASK, looked)

    def _looks_at(self, positions: NDArray[np.int64], pages: Pages, zone: ZoneSpan) -> NDArray[np.bool_]:
        """Return whether the walk of a zone looks at pages: it steps over those behind a folio's first."""
        looks: NDArray[np.bool_] = pages.online & (pages.nid == zone.nid)
        if self.STEPS_OVER_FOLIOS:
            looks &= (pages.head == positions) | (self.machine.pfns(positions) == zone.start_pfn)
        return looks

    def _window(
        self, positions: NDArray[np.int64], pages: Pages, nids: NDArray[np.int64], looked: NDArray[np.bool_]
    ) -> Window:
        n, machine = len(positions), self.machine
        return Window(
            positions,
            pages,
            nids,
            np.zeros(n, dtype=np.int64),
            looked,
            None,
            machine.refusals(pages.head, nids),
            machine.draws(n),
        )

    def _take_raced(
        self, position: NDArray[np.int64], zone: ZoneSpan, batch: Batch, races: dict[int, Race]
    ) -> None:
        """Take one candidate at which a producer comes in."""
        pages = self.machine.pages(position)
        if not (self._looks_at(position, pages, zone) & pages.lru)[0]:
            return
        nid, asked = self._get_nid(int(position[0]), races.pop(int(position[0]), None))
        if nid == NUMA_NO_NODE:
            return
        window = self._window(position, pages, np.array([nid]), np.ones(1, dtype=np.bool_))
        window.asked = np.array([NOBODY if asked is None else asked], dtype=np.int32)
        self._take_window(window, batch)

    def _clear(self, positions: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.designs.model.Model`: clear READY, and leave NUMA_NO_NODE for the target."""
        words = self.records[positions] & ~np.uint32(_READY)
        self.records[positions] = words | np.uint32(self.NID_MASK << _FORMAT.nid.shift)

    def _lose_at_home(self, asked: NDArray[np.int32], nids: NDArray[np.int64]) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        self.ledger.lose_many(asked[asked == nids], ALREADY_THERE)
        self.ledger.lose_many(asked[asked != nids], MASKED_NID)

    def _get_nid(self, position: int, race: Race | None) -> tuple[int, int | None]:
        """Clear READY, then take the target: ``kmigrated_get_nid()``; -1 where the page was not READY.

        Returns:
            The target as the record had it, and the one that was asked for (None: nobody asks any more).
        """
        if race is None:
            return self._take(position)
        nid, asked, n_producer, n_thread, clear = NUMA_NO_NODE, None, 0, 0, False
        if self._marked_position(race.pfn) < 0:
            return self._take(position)
        for who in race.order:
            if who == "P":
                if n_producer == 0:
                    self._exchange_nid(position, race.nid)
                else:
                    self._set_ready(position, race.nid)
                    self._activate(position)
                n_producer += 1
            elif n_thread == 0:
                n_thread = 1
                clear = not self.records[position] & _READY
                if not clear:
                    self.records[position] &= ~np.uint32(_READY)
                    self.counters["claimed"] += 1
                    asked = self.ledger.claim(position)
            elif not clear:
                nid = self._exchange_nid(position, NUMA_NO_NODE)
        return nid, asked

    def _take(self, position: int) -> tuple[int, int | None]:
        """The same while no producer is there."""
        word, shift = self.records.item(position), _FORMAT.nid.shift
        if not word & _READY:
            return NUMA_NO_NODE, None
        self.records[position] = word & ~_READY | self.NID_MASK << shift
        self.counters["claimed"] += 1
        return word >> shift & self.NID_MASK, self.ledger.claim(position)

    def _marked_position(self, pfn: int) -> int:
        """Return where a producer's page is, -1 where it has no page_ext; count the call."""
        position = self.machine.position(pfn)
        if position < 0 or not self.machine.page(position).online:
            self.counters["kmigrated_add_pfn_einval"] += 1
            return -1
        self._count_marks(1)
        return position

    def _marked_positions(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the pages of producers are, -1 for one without page_ext."""
        return self.machine.online_positions(pfns)

    def _count_marks(self, n_marks: int) -> None:
        self.counters["kmigrated_add_pfn"] += n_marks
        # The record's line, and that of the node's flags, which everybody sets.
        self._charge(2, atomics=3, n_marks=n_marks)

    def _exchange_nid(self, position: int, nid: int) -> int:
        shift = _FORMAT.nid.shift
        word = self.records.item(position)
        self.records[position] = word & ~(self.NID_MASK << shift) | (nid & self.NID_MASK) << shift
        return word >> shift & self.NID_MASK

    def _set_ready(self, position: int, nid: int) -> None:
        self.records[position] |= np.uint32(_READY)
        self._lines.note(position)
        self.ledger.ask(position, nid)

    def _activate(self, position: int) -> None:
        self._active.add(self.machine.page(position).nid)

    def _activate_many(self, pfns: NDArray[np.int64], nids: NDArray[np.int64]) -> None:
        """Set the flags for pages that were marked, of these nodes."""
        self._active.update(distinct(nids))

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        ready: NDArray[np.bool_] = self.records[positions] & np.uint32(_READY) != 0
        return ready


class RfcV1(Kmigrated):
    """As posted.

    - PAGE_EXT_MIG_NID_MASK is made of the shift, not of the width. READY is bit 2 of the 64-bit
      word, so the mask has 3 bits, and targets are modulo 8.
    - The first candidate of each zone flushes an empty list to node -1, and a change of target
      flushes nothing: up to 512 folios go where the one that fills the batch belongs.
    - Every page of a large folio is looked at.
    """

    NID_MASK: ClassVar[int] = 7
    STEPS_OVER_FOLIOS: ClassVar[bool] = False
    RULE: ClassVar[int] = KMIGRATED_V1


class RfcFixed(Kmigrated):
    """With ``==`` for ``!=``, masks of the fields' widths, and the TODO done: a step of a folio's size.

    The two atomics, marks consumed before the checks and marks that outlive their folio stay.
    """

    NID_MASK: ClassVar[int] = _FORMAT.nid.max
    STEPS_OVER_FOLIOS: ClassVar[bool] = True
    RULE: ClassVar[int] = KMIGRATED_FIXED


def page_ext_bytes(machine: SimulatedMachine, _policy: Policy, _n_asked: int) -> int:
    """Return what all page_ext of a machine take, see :class:`gpuscan.designs.contract.Design`."""
    return machine.page_map.n_present_pages * PAGE_EXT_BYTES
