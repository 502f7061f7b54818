"""The source of a live run: what a monitor saw becomes marks on the folios of real processes.

A tick is real time: :meth:`LiveSource.sample` sleeps until it is due. Accessed pages that are not near
become recorded accesses, so that the store's own threshold decides (one look is not enough), and
cold pages become requests. Between a look and a move pages are freed, moved, remapped; whatever no
longer fits is counted and left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.engine.stages import AccessWitness, FolioEvents, Produced, Sampled
from gpuscan.linux.address_map import AddressMap, Trait
from gpuscan.linux.numa import Allowance, read_allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import NO_PAGES, PageFlags, Pages, pages_in
from gpuscan.linux.sharing import Sharing
from gpuscan.linux.system import HERE, System
from gpuscan.linux.targets import NO_ROOM, NO_TARGET, NOT_ALLOWED, Targets
from gpuscan.monitors.contract import Monitor
from gpuscan.monitors.shared import SharedPages, Sharer
from gpuscan.monitors.touched import REHEARSED_PAGES, LastSeen, Touched, mapped
from gpuscan.monitors.treatment import Keeper, Same, Treatment, Way
from gpuscan.monitors.wanted import Wanted
from gpuscan.records.page_map import PageMap

LARGE_SHARE = 0.5
"""Part of a large folio that must be accessed for it to move: it moves as a whole, and a region of DAMON
that goes a little beyond the hot set would take a huge page of cold memory along. A cold one is cold in
all of its pages."""
_SHARES: dict[Way, float] = {"up": LARGE_SHARE, "down": 1.0, "out": 0.0}
SHARED = "mapped by several processes"
OTHERS = "mapped by processes that are not watched, too"
DISAGREE = "mapped by several processes, and not all may have it there"
NOT_COLD = "mapped by several processes, and not cold for all of them"
_NOT_ALLOWED = "not allowed there (cpuset or memory policy)"
LARGER = "a hugetlb page of more than 2 MiB"
STALE_TICKS = 20
"""Ticks after which a candidate that was not seen again is given up: it has cooled, or its frame is gone."""
IDLE_FACTOR = 10
"""While nothing is found the pause between two looks grows up to as many intervals: a settled process
is watched for less than one that moves."""
_ALLOWANCE_SHARE = 20
"""numa_maps walks all page tables: it is read again after as many times as long as reading it took."""
_ALLOWANCE_NS = 1_000_000_000
"""And not more often than this."""

_MARKED_PAGES = 8_192
"""Enough for arrays as large as a first look makes: the allocator, too, keeps what it was given once."""

_NONE = np.empty(0, dtype=np.int64)

Sleep = Callable[[float], bool]
"""Waits up to so many seconds; returns whether the run shall end."""


@dataclass(slots=True)
class Member:
    """A process that is watched.

    Attributes:
        process: which.
        number: its own in the address map.
        allowance: what it was allowed when last asked, and where its memory was.
        read_again_ns: when that is due again.
        hot_pages, hot_near_pages, cold_pages: what the last look found.
        leaving_folios: folios that the last look asked to leave a node that is emptied.
        full_looks: looks in a row in which there was no room for another candidate.
        last_heads: the candidate that was let in last, by way.
        long_cold: since when its pages are cold, for who must be so for longer than the monitor says.
    """

    process: Process
    number: int
    allowance: Allowance
    read_again_ns: int
    hot_pages: int = 0
    hot_near_pages: int = 0
    cold_pages: int = 0
    leaving_folios: int = 0
    full_looks: int = 0
    last_heads: dict[Way, int] = field(default_factory=dict)
    long_cold: LastSeen = field(default_factory=LastSeen)


class AddressWitness(AccessWitness, Protocol):
    """Is told which addresses of which process were accessed, too."""

    def accessed_by(self, now_ns: int, number: int, addresses: NDArray[np.int64]) -> None:
        """See int64[m] addresses of a process that were accessed, those that it wants to see."""
        ...

    def read(self, number: int, process: Process) -> None:
        """See a process, and read what it has mapped: when it is first watched, and now and then."""
        ...

    def gone(self, number: int) -> None:
        """See that a process is watched no more; nothing is said of it from then on."""
        ...


class LiveSource:
    """A :class:`gpuscan.engine.stages.Source` on processes of this machine.

    Args:
        monitor: who tells what was accessed.
        targets: where pages go.
        page_map: of the machine the store is for.
        flags: /proc/kpageflags.
        addresses: filled with the candidates; shared with the migrator.
        sleep: waits, and tells when the run shall end.
        keeper: says what is to be done with whose pages; by default hot ones of all go up.
        allowance_of: reads what a process is allowed.
        pause_of: returns how long the pause before a look is to be, given how long it would be, in ns.
        goes_on: it does not end with the processes: others may come.
        witness: is told which pages were seen accessed.
        sharing: who maps pages that several processes map; None: those stay where they are.
        system: whose clock counts.
    """

    def __init__(
        self,
        monitor: Monitor,
        targets: Targets,
        page_map: PageMap,
        flags: PageFlags,
        addresses: AddressMap,
        sleep: Sleep,
        *,
        keeper: Keeper | None = None,
        allowance_of: Callable[[Process], Allowance] = read_allowance,
        pause_of: Callable[[int], int] = int,
        goes_on: bool = False,
        witness: AddressWitness | None = None,
        sharing: Sharing | None = None,
        system: System = HERE,
    ) -> None:
        self._witness = witness
        self._shared = None if sharing is None else SharedPages(sharing)
        self._monitor = monitor
        self._targets = targets
        self._page_map = page_map
        self._flags = flags
        self._addresses = addresses
        self._sleep = sleep
        self._keeper = keeper or Same(Treatment())
        self._allowance_of = allowance_of
        self._pause_of = pause_of
        self._goes_on = goes_on
        self._system = system
        self._left: list[FolioEvents] = []
        """Candidates of those that are not watched any more."""
        self._going_down = _NONE
        """Heads of folios that were asked to go down, ascending; those that went meanwhile among them."""
        self._until_ns: int | None = None
        self.members: list[Member] = []
        self.was_refused = False
        """Whether the monitor raised when it was last told whom to watch; it may see nothing since then."""
        self._tick = self._looked_ns = 0
        self._idle_ticks = 0
        self._ended = False
        self._started_ns = self._system.monotonic_ns()
        self.end_reason = ""
        self.no_room = _NONE
        """Heads of folios that are to leave an emptied node, and for which the last look found no room."""
        self.skipped: Counter[str] = Counter()
        """Pages seen hot or cold that were no candidates, by reason; and races."""

    @property
    def processes(self) -> list[Process]:
        """The processes watched now."""
        return [member.process for member in self.members]

    def use_monitor(self, monitor: Monitor) -> None:
        """Let another monitor tell what is accessed; it watches nobody yet."""
        self._monitor = monitor

    def use_machine(self, targets: Targets, page_map: PageMap) -> None:
        """Go by other memory from now on, and forget all candidates: who owns the store has ended them."""
        self._addresses.drop(self._addresses.stale(self._tick + 1))
        self._left = []
        self._going_down = _NONE
        self._targets, self._page_map = targets, page_map

    def start_clock(self, for_ns: int | None = None) -> None:
        """Let the run's time begin now, and end after ``for_ns``."""
        self._started_ns = self._system.monotonic_ns()
        self._until_ns = None if for_ns is None else self._started_ns + for_ns

    def watch(self, processes: Sequence[tuple[int, Process]]) -> None:
        """Watch these processes, each with a number that is its own for good."""
        known = {member.number: member for member in self.members}
        now_ns = self._system.monotonic_ns()
        asked = {number for number, _ in processes}
        for number in known.keys() - asked:
            is_alive = known[number].process.is_alive()
            self._let_go(known[number], "not watched any more" if is_alive else "process ended")
            if self._witness is not None:
                self._witness.gone(number)
        self.members = [
            known.get(number) or Member(process, number, self._allowance_of(process), now_ns + _ALLOWANCE_NS)
            for number, process in processes
        ]
        if self._shared is not None:
            self._shared.keep([number for number, _ in processes])
        if not known:
            self._rehearse()
            for member in self.members:  # so that it is not due when the first look is in
                self._read(member)
        else:
            for member in self.members:
                if member.number not in known:
                    self._tell_mapped(member)
        self.was_refused = True
        self._monitor.watch([member.process for member in self.members])
        self.was_refused = False

    def _tell_mapped(self, member: Member) -> None:
        if self._witness is not None:
            self._witness.read(member.number, member.process)

    def let_go(self, numbers: Iterable[int], why: str) -> None:
        """End the requests for pages of some processes: something else is to be done with them now.

        Args:
            numbers: of the processes.
            why: the reason in the ledger.
        """
        asked = set(numbers)
        for member in self.members:
            if member.number in asked:
                self._let_go(member, why)

    def pending_pages(self) -> dict[int, tuple[int, int]]:
        """Return the base pages of the candidates of each process, those to go up (or out), and down."""
        down = self._addresses.pages_by_process(self._going_down)
        return {
            number: (n_pages - down.get(number, 0), down.get(number, 0))
            for number, n_pages in self._addresses.pages_by_process().items()
        }

    def _let_go(self, member: Member, why: str) -> None:
        """End the requests for pages of a process."""
        heads = self._addresses.of_process(member.number)
        if len(heads):
            self._addresses.drop(heads)
            self._left.append(FolioEvents(self._page_map.flat_of_pfn(heads), _NONE, why=why))

    def _rehearse(self) -> None:
        """Go once through what a look does, on a few pages, and keep nothing.

        What is run for the first time is slow, and the first look after a monitor is on shall not be.
        """
        scratch = LiveSource(
            self._monitor,
            self._targets,
            self._page_map,
            self._flags,
            AddressMap(),
            self._sleep,
            allowance_of=self._allowance_of,
            system=self._system,
        )
        n_left = REHEARSED_PAGES
        for member in self.members:
            pages = pages_in(member.process, mapped(member.process), n_most=n_left)
            n_left -= len(pages)
            flats = self._page_map.flat_of_pfn(pages.pfn)
            far = np.isin(self._page_map.nid_of_flat(np.maximum(flats, 0)), list(self._targets.promotion))
            pages = pages.take(np.flatnonzero(far & (flats >= 0))[:_MARKED_PAGES])
            sure = np.ones(len(pages), dtype=np.bool_)
            scratch._mark(member, pages, [], [], Treatment(), sure=sure)
            if n_left <= 0:
                break

    def resident_pages(self) -> dict[int, int]:
        """Return the base pages of all processes by nid, as numa_maps last said."""
        total: Counter[int] = Counter()
        for member in self.members:
            total.update(member.allowance.resident)
        return dict(sorted(total.items()))

    def finished(self) -> bool:
        """Whether all processes have ended, the time is over, or the run shall end."""
        if self.end_reason:
            return True
        if self._ended:
            self.end_reason = "interrupted"
        elif self._until_ns is not None and self._system.monotonic_ns() >= self._until_ns:
            self.end_reason = "time is over"
        elif not self._goes_on and not any(member.process.is_alive() for member in self.members):
            self.end_reason = "process ended"
        return bool(self.end_reason)

    def finish(self, reason: str) -> None:
        """Let it end: there is nothing more to do."""
        self.end_reason = reason

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Sleep until ``duration_ns`` after ``now_ns`` and return what was accessed since the last look."""
        pause_ns = self._pause_of(duration_ns * min(1 + self._idle_ticks // 2, IDLE_FACTOR))
        if not self._tick:
            pause_ns = 0
        due_ns = self._started_ns + now_ns + pause_ns
        if self._until_ns is not None:
            due_ns = min(due_ns, self._until_ns)
        self._ended = self._sleep(max(0, due_ns - self._system.monotonic_ns()) / 1e9) or self._ended
        began_ns = self._system.monotonic_ns()
        if not self._ended:
            # Before the look: most monitors wait in it for the kernel, and what they see is dated after this.
            for member in self.members:
                self._refresh(member)
        looked_ns = self._looked_ns = self._system.monotonic_ns()
        self._targets.begin_look()
        self.no_room = _NONE
        before = self.skipped.copy()
        metrics: Counter[str] = Counter()
        events, self._left = self._left, []
        produced: list[Produced] = []
        touched = self._monitor.observe(looked_ns) if not self._ended else []
        cold = self._cold(touched, looked_ns)
        self._begin_shared(cold)
        for member, pages, cold_pages in zip(self.members, touched, cold, strict=False):
            if pages.unseen:
                self.skipped["of a process not watched, there are too many"] += sum(
                    member.allowance.resident.values()
                )
            if self._witness is not None:
                seen = pages.hot.take(self._witness.sampled(len(pages.hot)))
                self._witness.accessed(now_ns, self._page_map.flat_of_pfn(seen.pfn))
                self._witness.accessed_by(now_ns, member.number, seen.address)
            if len(self._going_down):
                self._keep_up(pages.hot, events)
            self._take(member, pages, cold_pages, events, produced)
            metrics["hot_pages"] += member.hot_pages
            metrics["hot_near_pages"] += member.hot_near_pages
            metrics["cold_pages"] += member.cold_pages
            if self._targets.drained:
                metrics["leaving_folios"] += member.leaving_folios
        stale = self._addresses.stale(self._tick - STALE_TICKS)
        if len(stale):
            self._addresses.drop(stale)
            events.append(FolioEvents(self._page_map.flat_of_pfn(stale), _NONE, why="not seen again"))
        self._tick += 1
        self._idle_ticks = 0 if produced else self._idle_ticks + 1
        for reason, count in (self.skipped - before).items():
            metrics[f"skipped.{reason}"] += count
        ended_ns = self._system.monotonic_ns()
        metrics["observe_ns"] = ended_ns - began_ns
        return Sampled(
            tuple(produced),
            tuple(events),
            {name: float(value) for name, value in metrics.items()},
            elapsed_ns=ended_ns - self._started_ns - now_ns,
        )

    def _cold(self, touched: Sequence[Touched], now_ns: int) -> list[Pages]:
        """Return of each process the pages that are cold for long enough; none where they are not to go."""
        found: list[Pages] = []
        for member, pages in zip(self.members, touched, strict=False):
            treatment = self._keeper.treatment(member.number)
            cold = pages.cold if treatment.demotes else NO_PAGES
            if treatment.demotes and treatment.cold_wait_ns:
                is_hot = np.zeros(len(cold), dtype=np.bool_)
                cold = cold.take(member.long_cold.cold(cold.address, is_hot, now_ns, treatment.cold_wait_ns))
            found.append(cold)
        return found

    def _begin_shared(self, cold: Sequence[Pages]) -> None:
        if self._shared is not None:
            sharers = [
                Sharer(member.number, member.process, member.allowance, self._keeper.treatment(member.number))
                for member in self.members
            ]
            self._shared.begin(sharers, [pages.pfn for pages in cold])

    def _refresh(self, member: Member) -> None:
        if self._system.monotonic_ns() < member.read_again_ns or not member.process.is_alive():
            return
        self._read(member)

    def _read(self, member: Member) -> None:
        started_ns = self._system.monotonic_ns()
        member.allowance = self._allowance_of(member.process)
        self._tell_mapped(member)
        ended_ns = self._system.monotonic_ns()
        member.read_again_ns = ended_ns + max(_ALLOWANCE_NS, _ALLOWANCE_SHARE * (ended_ns - started_ns))

    def _take(
        self,
        member: Member,
        pages: Touched,
        cold: Pages,
        events: list[FolioEvents],
        produced: list[Produced],
    ) -> None:
        """Mark what was seen of one process, as far as its treatment goes."""
        treatment = self._keeper.treatment(member.number)
        member.hot_pages = len(pages.hot)
        member.cold_pages = len(pages.cold) if treatment.demotes else 0
        way: Way = "up"
        marked = self._mark(member, pages.hot, events, produced, treatment, sure=pages.sure)
        marked_up = marked
        if self._targets.drained:
            treatment = self._after(member, treatment, marked, "up")
            out = pages_in(member.process, mapped(member.process))
            n_before = len(produced)
            marked, way = self._mark(member, out, events, produced, treatment, way="out"), "out"
            member.leaving_folios = sum(len(part.pfns) for part in produced[n_before:])
            marked_up += marked
        if treatment.demotes:
            treatment = self._after(member, treatment, marked, "out" if self._targets.drained else "up")
            marked, way = self._mark(member, cold, events, produced, treatment, way="down"), "down"
        if marked:
            self._keeper.entered(member.number, marked, way)
        self._take_turns(member, events, is_full=not marked_up and treatment.room_pages == 0)

    def _take_turns(self, member: Member, events: list[FolioEvents], *, is_full: bool) -> None:
        """Let others be candidates where those of a process have filled its room for long.

        What is refused again and again, for want of room above or because it is pinned, would else keep all
        others out as long as it is seen.
        """
        member.full_looks = member.full_looks + 1 if is_full else 0
        if member.full_looks >= STALE_TICKS:
            member.full_looks = 0
            self._let_go(member, "gave way to others")
            events += self._left
            self._left = []

    def _after(self, member: Member, treatment: Treatment, n_marked: int, way: Way) -> Treatment:
        """Return the treatment once so many pages have become candidates."""
        if not n_marked:
            return treatment
        self._keeper.entered(member.number, n_marked, way)
        return self._keeper.treatment(member.number)

    def _mark(
        self,
        member: Member,
        pages: Pages,
        events: list[FolioEvents],
        produced: list[Produced],
        treatment: Treatment,
        *,
        sure: NDArray[np.bool_] | None = None,
        way: Way = "up",
    ) -> int:
        """Mark pages of a process that may move; return how many base pages became candidates."""
        flats = self._page_map.flat_of_pfn(pages.pfn)
        known = flats >= 0
        self.skipped["not in a known zone"] += len(pages) - int(known.sum())
        pages, flats = pages.take(known), flats[known]
        nids = self._page_map.nid_of_flat(flats)
        allowance = member.allowance
        if treatment.nids is not None:
            allowance = replace(allowance, nids=allowance.nids & treatment.nids)
        targets = self._targets.of_pages(nids, pages.address, allowance, way=way)
        if way == "up":
            member.hot_near_pages = int((targets == NO_TARGET).sum())
            if not treatment.promotes:
                return 0
        self.skipped[_NOT_ALLOWED] += int((targets == NOT_ALLOWED).sum())
        movable = targets >= 0
        movable &= self._may_be_shared(pages, movable, treatment)
        if not movable.any():
            return 0
        pages, targets = pages.take(movable), targets[movable]
        folios = self._flags.folios_of(pages.pfn)
        n_larger = int((folios.hugetlb & ~folios.movable).sum())
        if n_larger:
            self.skipped[LARGER] += n_larger
        self.skipped["not on an LRU list"] += len(pages) - int(folios.movable.sum()) - n_larger
        candidate = folios.movable
        shares_out = way == "out" and self._targets.rooms is not None
        # What a dry run planned keeps the room that it was given: it is taken out once all is shared out.
        if len(self._addresses.planned) and not shares_out:
            candidate = candidate & ~np.isin(folios.head, self._addresses.planned)
        heads, first, place, n_seen = np.unique(
            folios.head[candidate], return_index=True, return_inverse=True, return_counts=True
        )
        is_shared = np.zeros(len(heads), dtype=np.bool_)
        is_shared[place[~pages.exclusive[candidate]]] = True
        traits = np.where(folios.hugetlb[candidate][first], int(Trait.HUGETLB), 0)
        traits[is_shared] |= int(Trait.SHARED)
        wanted = Wanted(
            heads,
            folios.order[candidate][first],
            pages.address[candidate][first],
            targets[candidate][first],
            np.full(len(heads), member.number, dtype=np.int64),
            traits,
        )
        enough = n_seen >= _SHARES[way] * wanted.n_pages
        self.skipped["part of a large folio"] += int(n_seen[~enough].sum())
        wanted = wanted.take(enough)
        wanted = (
            self._shared_out(member, wanted, allowance) if shares_out else self._judged(member, wanted, way)
        )
        room_pages = treatment.room_down_pages if way == "down" else treatment.room_pages
        if room_pages is not None and len(wanted):
            fits = self._fits(member, wanted, room_pages, way)
            self.skipped["held back, the budget has no room yet"] += int(wanted.n_pages[~fits].sum())
            wanted = wanted.take(fits)
        if not len(wanted):
            return 0
        n_new = self._enter(wanted, events)
        if way == "down":
            self._going_down = np.union1d(self._going_down, wanted.head)
        if way == "up" and self._shared is not None and wanted.is_shared.any():
            counts = ~wanted.is_shared
            counts[~counts] = self._shared.first_time(wanted.head[wanted.is_shared])
            wanted = wanted.take(counts)
        heads, nids, threshold = wanted.head, wanted.nid, treatment.threshold
        produced.append(Produced("record" if way == "up" else "request", heads, nids, threshold))
        if sure is not None and len(heads):
            # One look that stands for many: counted as a second access.
            again = np.zeros(len(heads), dtype=np.bool_)
            seen_sure = folios.head[candidate][sure[known][movable][candidate]]
            place = np.minimum(np.searchsorted(heads, seen_sure), len(heads) - 1)
            again[place[heads[place] == seen_sure]] = True
            if again.any():
                produced.append(Produced("record", heads[again], nids[again], threshold))
        return n_new

    def _may_be_shared(
        self, pages: Pages, movable: NDArray[np.bool_], treatment: Treatment
    ) -> NDArray[np.bool_]:
        """Return bool[n]: which pages may be candidates for all that is known of who else maps them."""
        shared = movable & ~pages.exclusive
        n_shared = int(shared.sum())
        if not n_shared:
            self.skipped[SHARED] += 0
            return np.ones(len(pages), dtype=np.bool_)
        if self._shared is None or treatment.shared == "never":
            self.skipped[SHARED] += n_shared
        elif why_not := self._shared.why_not():
            self.skipped[f"{SHARED}, and {why_not}"] += n_shared
        else:
            self._shared.bring_up_to_date()
            return np.ones(len(pages), dtype=np.bool_)
        return pages.exclusive

    def _shared_out(self, member: Member, wanted: Wanted, allowance: Allowance) -> Wanted:
        """Return the folios that leave, each for a node that has room for it; count the others by reason."""
        wanted = self._known(member, wanted)
        nids = self._page_map.nid_of_flat(self._page_map.flat_of_pfn(wanted.head))
        targets = np.full(len(wanted), NOT_ALLOWED, dtype=np.int32)
        for allowed, which in self._agreed(wanted, allowance.nids):
            part = wanted.take(which)
            targets[which] = self._targets.share_out(
                part.head,
                part.n_pages,
                part.traits,
                nids[which],
                part.address,
                replace(allowance, nids=allowed),
            )
        for reason, stays in (
            (_NOT_ALLOWED, (targets == NOT_ALLOWED) & ~wanted.is_shared),
            (DISAGREE, (targets == NOT_ALLOWED) & wanted.is_shared),
            ("no node has room", targets == NO_ROOM),
        ):
            if n := int(wanted.n_pages[stays].sum()):
                self.skipped[reason] += n
        self.no_room = np.append(self.no_room, wanted.head[targets == NO_ROOM])
        wanted = self._judged(member, replace(wanted, nid=targets).take(targets >= 0), "out")
        return wanted.take(~np.isin(wanted.head, self._addresses.planned))

    def _agreed(
        self, wanted: Wanted, nids: frozenset[int]
    ) -> Iterator[tuple[frozenset[int], NDArray[np.intp]]]:
        """Yield nodes, of those given, that all may have a folio on who map it, and intp[m]: which folios."""
        shared = np.flatnonzero(wanted.is_shared)
        if self._shared is None or not len(shared):
            yield nids, np.arange(len(wanted))
            return
        yield nids, np.flatnonzero(~wanted.is_shared)
        groups = [(nids, np.arange(len(shared)))]
        for nid in nids - self._targets.drained:
            may = self._shared.may_have(wanted.take(shared), nid, "out")
            groups = [
                (allowed if is_fine else allowed - {nid}, which[may[which] == is_fine])
                for allowed, which in groups
                for is_fine in (True, False)
            ]
            groups = [(allowed, which) for allowed, which in groups if len(which)]
        for allowed, which in groups:
            yield allowed, shared[which]

    def _known(self, member: Member, wanted: Wanted) -> Wanted:
        """Return the folios that nobody maps who is not watched: the others stay, and need no room."""
        if self._shared is None or not (which := np.flatnonzero(wanted.is_shared)).size:
            return wanted
        shared = wanted.take(which)
        stays = ~self._shared.judge(member.number, shared, "out").is_known
        self.skipped[OTHERS] += int(shared.n_pages[stays].sum())
        return wanted.take(np.delete(np.arange(len(wanted)), which[stays]))

    def _judged(self, member: Member, wanted: Wanted, way: Way) -> Wanted:
        """Return the folios that may move for all who map them; count the others by reason."""
        if self._shared is None or not (which := np.flatnonzero(wanted.is_shared)).size:
            return wanted
        verdict = self._shared.judge(member.number, wanted.take(which), way)
        stays = np.zeros(len(which), dtype=np.bool_)
        for reason, is_fine in (
            (OTHERS, verdict.is_known),
            (DISAGREE, verdict.is_agreed),
            (NOT_COLD, verdict.is_cold | (way != "down")),
        ):
            if n := int(wanted.n_pages[which][~stays & ~is_fine].sum()):
                self.skipped[reason] += n
            stays |= ~is_fine
        wanted = wanted.stood_for(which, verdict.process, verdict.address, verdict.traits)
        return wanted.take(np.delete(np.arange(len(wanted)), which[stays]))

    def _fits(self, member: Member, wanted: Wanted, room_pages: int, way: Way) -> NDArray[np.bool_]:
        """Return bool[n]: which folios are candidates already, or may become some; by turns, as PFNs go."""
        heads = wanted.head
        _, known = self._addresses.find(heads)
        first = int(np.searchsorted(heads, member.last_heads.get(way, -1), side="right"))
        turn = np.roll(np.arange(len(heads)), -first)
        fits = known.copy()
        fits[turn] |= np.cumsum(np.where(known, 0, wanted.n_pages)[turn]) <= room_pages
        new = turn[(fits & ~known)[turn]]
        if len(new):
            member.last_heads[way] = int(heads[new[-1]])
        return fits

    def _keep_up(self, hot: Pages, events: list[FolioEvents]) -> None:
        """End the requests to go down of what was accessed again: with a rate limit they wait long."""
        entries, known = self._addresses.find(self._going_down)
        entries = entries.take(known)
        self._going_down = self._going_down[known]
        if not len(self._going_down):
            return
        place = np.searchsorted(self._going_down, hot.pfn, side="right") - 1
        inside = (place >= 0) & (hot.pfn < self._going_down[place] + (1 << entries.order[place]))
        accessed = np.unique(place[inside])
        if len(accessed):
            heads = self._going_down[accessed]
            self._addresses.drop(heads)
            self._going_down = np.delete(self._going_down, accessed)
            events.append(FolioEvents(self._page_map.flat_of_pfn(heads), _NONE, why="accessed again"))

    def _enter(self, wanted: Wanted, events: list[FolioEvents]) -> int:
        """Enter folios into the address map; return how many base pages are new there."""
        n_new = 0
        for number in np.unique(wanted.process).tolist():
            mine = wanted.take(wanted.process == number)
            new, reused = self._addresses.put(
                mine.head, mine.address, mine.order, number, self._tick, self._looked_ns, mine.traits
            )
            flats = self._page_map.flat_of_pfn(mine.head)
            if reused.any():
                self.skipped["frame given out again, or remapped"] += int(reused.sum())
                events.append(FolioEvents(flats[reused], _NONE, why="frame given out again"))
            admitted = new | reused
            events.extend(
                FolioEvents(_NONE, flats[admitted & (mine.order == order)], order)
                for order in np.unique(mine.order[admitted]).tolist()
            )
            n_new += int(mine.n_pages[new].sum())
        return n_new
