"""A migrator that moves the pages of real processes with move_pages(2).

What the call does (mm/migrate.c do_pages_move(), v6.12): it walks the array, collects what it can
isolate and migrates the list when the target changes, when an entry cannot be isolated or is on its
target already, and at the end. Statuses are written per list that was migrated as a whole: after a
non-zero return those of the failed list are not written and the rest was not tried. The return is
positive for pages that were not migrated, which says not which; so gpuscan asks where the pages
are and goes on with the rest. It migrates synchronously and reclaims on the target rather than
give up, so the watermarks are looked at here.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import check_arrays, has_methods, instance, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.base.histogram import Histogram
from gpuscan.base.units import PAGE_BYTES
from gpuscan.engine.stages import BATCH, FolioEvents, MigrateResult, MigrateStatus
from gpuscan.linux.address_map import AddressMap, Entries, Trait
from gpuscan.linux.capabilities import OTHERS
from gpuscan.linux.hugetlb import free_huge_pages
from gpuscan.linux.numa import Room
from gpuscan.linux.process import Process
from gpuscan.linux.resident import pfns_at
from gpuscan.linux.sharing import ALL, Sharing
from gpuscan.linux.syscalls import NOT_WRITTEN
from gpuscan.linux.system import HERE, System
from gpuscan.migrate.reasons import (
    CALL_FAILED,
    DRY,
    HELD,
    NO_CANDIDATE,
    NO_HUGE_PAGE,
    NO_ROOM,
    NOT_BALANCED,
    NOT_MOVED,
    NOT_SAID,
    OF_CALL,
    OF_STATUS,
    OTHERS_MAP,
    PAGE_GONE,
    PROCESS_ENDED,
    REMAPPED,
)
from gpuscan.migrate.steward import MOST_CALL_PAGES, Steward, n_first
from gpuscan.records.page_map import PageMap

_BEFORE_ANY = (errno.EPERM, errno.EINVAL, errno.EACCES)
"""Of a call: none of its pages has moved. All go to one node, and whether that is allowed is asked first
(kernel_move_pages() and do_pages_move(), mm/migrate.c, v6.12)."""
_MOST_CALLS = 4
"""Calls for one batch: each after the first takes up what an aborted one left."""
_UNDECIDED = 1
_SHORT = (MigrateStatus.EAGAIN, MigrateStatus.ENOMEM)
"""Where the target has no room, among others."""
_NONE = np.empty(0, dtype=np.int64)
WAIT_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class MovePagesMigrator:
    """A :class:`gpuscan.engine.stages.Migrator` on processes of this machine.

    Args:
        processes: by their numbers in ``addresses``; those that ended may be missing.
        addresses: which process and address a folio stands for.
        page_map: of the machine.
        room: what the nodes can take.
        system: where they run.
        tiers: of each node with memory, where pages may go down, too; else none is counted as demoted.
        steward: has budgets of processes; None where nothing is held back.
        sharing: knows who maps what; without it no page that several processes map is moved.
    """

    keeps = (OTHERS, ALL)
    """Rights that it needs; without the second one it moves no pages that several processes map."""

    def __init__(
        self,
        processes: dict[int, Process],
        addresses: AddressMap,
        page_map: PageMap,
        room: Room,
        system: System = HERE,
        *,
        tiers: Mapping[int, int] | None = None,
        steward: Steward | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        instance("a migrator's processes", processes, dict, "give gpuscan.Process by number")
        instance("a migrator's addresses", addresses, AddressMap, "give a gpuscan.AddressMap")
        has_methods("a migrator's room", room, ("pages", "take"), "give a gpuscan.Room")
        instance("a migrator's system", system, System, "leave it out")
        if steward is not None:
            asked = ("grant", "chunk_pages", "called", "settled")
            has_methods("a migrator's steward", steward, asked, "leave it out")
        if sharing is not None:
            has_methods("a migrator's sharing", sharing, ("are_still",), "leave it out")
        self._processes = processes
        self._addresses = addresses
        self._room = room
        self._system = system
        self.use_machine(page_map, tiers)
        self._steward = steward
        self._sharing = sharing
        self.moved_shared_pages = 0
        """Base pages moved that several processes mapped."""
        self.moved_hugetlb_pages = 0
        """Base pages moved that were of hugetlbfs."""
        self.moved_pages: Counter[int] = Counter()
        """Base pages moved, by target nid."""
        self.demoted_pages = 0
        """Base pages moved to a lower tier."""
        self.n_split = 0
        """Large folios of which only a part arrived: the kernel split them."""
        self.waited_s = Histogram(WAIT_BOUNDS_S)
        """From when a folio that moved was first seen to where it had moved."""

    def use_machine(self, page_map: PageMap, tiers: Mapping[int, int] | None) -> None:
        """Go by other memory from now on; what was counted goes on."""
        instance("a migrator's page_map", page_map, PageMap, "give topology.page_map")
        if tiers is not None:
            has_methods("a migrator's tiers", tiers, ("items", "keys"), "give tiers by nid")
        self._page_map, self._tiers = page_map, tiers

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """Move one batch of folios to a node.

        Args:
            target_nid: a node with memory.
            pfns: int64[n], first pages.
            n_pages: int64[n], base pages of each.
        """
        started_ns = self._system.monotonic_ns()
        target_nid = whole("migrate: target_nid", target_nid)
        pfns, n_pages = check_arrays("migrate", BATCH, (pfns, n_pages), {})
        flats = self._page_map.flat_of_pfn(pfns)
        if (flats < 0).any():
            raise ArgumentError("migrate: some pfns are not of this machine; give those of a plan")
        if self._tiers is not None and target_nid not in self._tiers:
            raise ArgumentError(f"migrate: node {target_nid} is in no tier; give one of tiers, or no tiers")
        status = np.full(len(pfns), _UNDECIDED, dtype=np.int16)
        reasons: Counter[str] = Counter()
        entries, known = self._addresses.find(pfns)
        _refuse(status, ~known, MigrateStatus.ENOENT, NO_CANDIDATE, reasons)
        for number in np.unique(entries.process[known]).tolist():
            mine = known & (entries.process == number)
            own: Counter[str] = Counter()
            self._migrate_of(number, target_nid, mine, entries, n_pages, status, own)
            reasons.update(own)
            if self._steward is not None:
                moved = mine & (status == MigrateStatus.MOVED)
                n_demoted = self._n_demoted(target_nid, flats[moved], n_pages[moved])
                short = mine & np.isin(status, _SHORT)
                n_left_below = int(n_pages[short][self._is_below(target_nid, flats[short])].sum())
                n_moved = int(n_pages[moved].sum())
                self._steward.settled(number, target_nid, n_moved, n_demoted, own, n_left_below)
        gone = status == MigrateStatus.ENOENT
        moved = status == MigrateStatus.MOVED
        self.moved_pages[target_nid] += int(n_pages[moved].sum())
        self.demoted_pages += self._n_demoted(target_nid, flats[moved], n_pages[moved])
        self.moved_shared_pages += int(n_pages[moved & _has(entries, Trait.SHARED)].sum())
        self.moved_hugetlb_pages += int(n_pages[moved & _has(entries, Trait.HUGETLB)].sum())
        ended_ns = self._system.monotonic_ns()
        for since_ns, n in zip(*np.unique(entries.since_ns[moved], return_counts=True), strict=True):
            self.waited_s.add((ended_ns - int(since_ns)) / 1e9, int(n))
        left = moved | gone
        self._addresses.drop(pfns[left])
        events = (FolioEvents(flats[left], _NONE),) if left.any() else ()
        n_no_room = sum(n for reason, n in reasons.items() if reason.partition(": ")[2] in NO_ROOM)
        return MigrateResult(status, dict(reasons), float(ended_ns - started_ns), events, n_no_room=n_no_room)

    def _n_demoted(self, target_nid: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> int:
        """Return how many base pages moved to a lower tier: a target may take pages from above and below."""
        tiers = self._tiers or {}
        above = [nid for nid, tier in tiers.items() if tier < tiers[target_nid]]
        if not above:
            return 0
        return int(n_pages[np.isin(self._page_map.nid_of_flat(flats), above)].sum())

    def _is_below(self, target_nid: int, flats: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n]: which pages are in a lower tier than a target."""
        tiers = self._tiers or {}
        below = [nid for nid, tier in tiers.items() if tier > tiers[target_nid]]
        return np.isin(self._page_map.nid_of_flat(flats), below)

    def _migrate_of(
        self,
        number: int,
        target_nid: int,
        mine: NDArray[np.bool_],
        entries: Entries,
        n_pages: NDArray[np.int64],
        status: NDArray[np.int16],
        reasons: Counter[str],
    ) -> None:
        """Move the folios of one process."""
        process = self._processes.get(number)
        if process is None or not process.is_alive():
            _refuse(status, mine, MigrateStatus.ENOENT, PROCESS_ENDED, reasons)
            return
        which = np.flatnonzero(mine)
        which = which[np.argsort(entries.address[which], kind="stable")]
        pfns = pfns_at(process, entries.address[which])
        inside = (pfns >= entries.head[which]) & (pfns < entries.head[which] + n_pages[which])
        _refuse(status, which[pfns < 0], MigrateStatus.ENOENT, PAGE_GONE, reasons)
        _refuse(status, which[(pfns >= 0) & ~inside], MigrateStatus.ENOENT, REMAPPED, reasons)
        which, pfns = which[inside], pfns[inside]
        if entries.traits[which].any():
            self._refuse_by_trait(target_nid, which, entries, status, reasons)
            left = status[which] == _UNDECIDED
            which, pfns = which[left], pfns[left]
        wants_room = np.where(_has(entries, Trait.HUGETLB), 0, n_pages)
        fits = self._fits(target_nid, wants_room[which])
        _refuse(status, which[~fits], MigrateStatus.EAGAIN, NOT_BALANCED, reasons)
        which, pfns = which[fits], pfns[fits]
        if self._steward is not None:
            n_granted = self._steward.grant(number, n_pages[which])
            _refuse(status, which[n_granted:], MigrateStatus.EDQUOT, HELD, reasons)
            which, pfns = which[:n_granted], pfns[:n_granted]
        if not len(which):
            return
        is_shared = _has(entries, Trait.SHARED)[which]
        for part, of_all in ((which[~is_shared], False), (which[is_shared], True)):
            sizes = (n_pages, wants_room)
            self._call_in_parts(process, target_nid, part, entries.address, sizes, status, reasons, of_all)
        is_moved = status[which] == MigrateStatus.MOVED
        moved = which[is_moved]
        if (n_pages[moved] > 1).any():
            # A large folio may be mapped at any address, not only at a multiple of its size.
            starts = entries.address[moved] - (pfns[is_moved] - entries.head[moved]) * PAGE_BYTES
            self._count_split(process, target_nid, starts, n_pages[moved])

    def _refuse_by_trait(
        self,
        target_nid: int,
        which: NDArray[np.intp],
        entries: Entries,
        status: NDArray[np.int16],
        reasons: Counter[str],
    ) -> None:
        """Refuse what others map by now, and pages of hugetlbfs for which the target's pool has none."""
        still = self._are_still_shared(which, entries)
        _refuse(status, which[~still], MigrateStatus.EACCES, OTHERS_MAP, reasons)
        is_hugetlb = _has(entries, Trait.HUGETLB)[which] & still
        if is_hugetlb.any():
            n_free = free_huge_pages(target_nid, self._system)
            too_many = is_hugetlb & (np.cumsum(is_hugetlb) > n_free)
            _refuse(status, which[too_many], MigrateStatus.ENOMEM, NO_HUGE_PAGE, reasons)

    def _are_still_shared(self, which: NDArray[np.intp], entries: Entries) -> NDArray[np.bool_]:
        """Return bool[n]: which are mapped by nobody else than they were when they were marked."""
        still = np.ones(len(which), dtype=np.bool_)
        asked = (_has(entries, Trait.SHARED) & ~_has(entries, Trait.ALWAYS))[which]
        if asked.any() and self._sharing is not None:
            those = which[asked]
            is_hugetlb = _has(entries, Trait.HUGETLB)[those]
            still[asked] = self._sharing.are_still(entries.head[those], entries.order[those], is_hugetlb)
        return still

    def _fits(self, target_nid: int, wants_room: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n]: which folios, from the front, have room on a node; each wants that many pages."""
        room_pages = self._room.pages(target_nid)
        fits: NDArray[np.bool_] = (np.cumsum(wants_room) <= room_pages) | (wants_room == 0)
        return fits

    def _call_in_parts(
        self,
        process: Process,
        target_nid: int,
        which: NDArray[np.intp],
        addresses: NDArray[np.int64],
        sizes: tuple[NDArray[np.int64], NDArray[np.int64]],
        status: NDArray[np.int16],
        reasons: Counter[str],
        of_all: bool,
    ) -> None:
        """Call move_pages(2) for as many pages at a time as the steward says, or else 512.

        ``sizes`` are each folio's base pages, and how many of them the target must have room for. It is asked
        for that again before each call but the first: others allocate meanwhile.
        """
        steward = self._steward
        n_pages, wants_room = sizes
        left = which
        while len(left):
            if len(left) < len(which):
                fits = self._fits(target_nid, wants_room[left])
                _refuse(status, left[~fits], MigrateStatus.EAGAIN, NOT_BALANCED, reasons)
                left = left[fits]
                if not len(left):
                    return
            most_pages = MOST_CALL_PAGES if steward is None else steward.chunk_pages()
            if not most_pages:
                _refuse(status, left, MigrateStatus.EDQUOT, HELD, reasons)
                return
            part = left[: n_first(n_pages[left], most_pages)]
            started_ns = self._system.monotonic_ns()
            self._call(process, target_nid, part, addresses, status, reasons, of_all)
            busy_ns = self._system.monotonic_ns() - started_ns
            moved = part[status[part] == MigrateStatus.MOVED]
            self._room.take(target_nid, int(wants_room[moved].sum()))
            if steward is not None:
                steward.called(int(n_pages[part].sum()), int(n_pages[moved].sum()), busy_ns)
            left = left[len(part) :]

    def _call(
        self,
        process: Process,
        target_nid: int,
        which: NDArray[np.intp],
        addresses: NDArray[np.int64],
        status: NDArray[np.int16],
        reasons: Counter[str],
        of_all: bool,
    ) -> None:
        """Call move_pages(2) until every folio of ``which`` is decided."""
        move = partial(self._system.move_pages, of_all=True) if of_all else self._system.move_pages
        left = which
        for _ in range(_MOST_CALLS):
            # Not once before the first call: each takes long, and meanwhile the PID may be another's.
            if not process.is_alive():
                _refuse(status, left, MigrateStatus.ENOENT, PROCESS_ENDED, reasons)
                return
            asked = addresses[left].astype(np.uint64)
            returned, written = move(process.pid, asked, np.full(len(left), target_nid, dtype=np.int32))
            left = self._booked(left, written, target_nid, status, reasons)
            if not len(left):
                return
            if returned == -errno.ESRCH:
                _refuse(status, left, MigrateStatus.ENOENT, PROCESS_ENDED, reasons)
                return
            if -returned in _BEFORE_ANY:  # what is on the target now went there by itself
                _refuse(status, left, *_of_call(-returned), reasons)
                return
            n_before = len(left)
            _, where = self._system.move_pages(process.pid, addresses[left].astype(np.uint64), None)
            arrived = where == target_nid
            status[left[arrived]] = MigrateStatus.MOVED
            left = left[~arrived]
            if returned < 0 and returned != -errno.ENOMEM:
                _refuse(status, left, *_of_call(-returned), reasons)
                return
            if len(left) == n_before:  # it would fail again
                break
        if len(left):
            code = MigrateStatus.ENOMEM if returned == -errno.ENOMEM else MigrateStatus.EAGAIN
            said = OF_STATUS.get(code, NOT_SAID)
            _refuse(status, left, code, said, reasons)

    def _booked(
        self,
        asked: NDArray[np.intp],
        written: NDArray[np.int32],
        target_nid: int,
        status: NDArray[np.int16],
        reasons: Counter[str],
    ) -> NDArray[np.intp]:
        """Book the statuses that the kernel wrote; return what has none."""
        status[asked[written == target_nid]] = MigrateStatus.MOVED
        # Before v4.17 a status could be another node: a page that had not moved.
        _refuse(
            status,
            asked[(written >= 0) & (written != target_nid)],
            MigrateStatus.EAGAIN,
            NOT_MOVED,
            reasons,
        )
        failed = (written < 0) & (written != NOT_WRITTEN)
        for code in np.unique(written[failed]).tolist():
            said = OF_STATUS.get(MigrateStatus(code)) if code in list(MigrateStatus) else None
            _refuse(
                status, asked[written == code], code, said or errno.errorcode.get(-code, str(code)), reasons
            )
        left: NDArray[np.intp] = asked[written == NOT_WRITTEN]
        return left

    def _count_split(
        self,
        process: Process,
        target_nid: int,
        starts: NDArray[np.int64],
        n_pages: NDArray[np.int64],
    ) -> None:
        for start, n in zip(starts[n_pages > 1].tolist(), n_pages[n_pages > 1].tolist(), strict=True):
            pages = pfns_at(process, start + np.arange(n, dtype=np.int64) * PAGE_BYTES)
            flats = self._page_map.flat_of_pfn(pages[pages >= 0])
            nids = self._page_map.nid_of_flat(flats[flats >= 0])
            self.n_split += bool((nids != target_nid).any())


def _has(entries: Entries, trait: Trait) -> NDArray[np.bool_]:
    """Return bool[n]: which have a trait."""
    found: NDArray[np.bool_] = (entries.traits & int(trait)) != 0
    return found


DRY_RUN = f"ECANCELED: {DRY}"
"""Reason of a dry run's refusals."""


class DryRunMigrator:
    """A :class:`gpuscan.engine.stages.Migrator` that moves nothing.

    Args:
        addresses: the candidates; what was planned is noted there and not planned again.
        page_map: of the machine.
    """

    keeps = (ALL,)
    """It moves nothing, and says of shared pages what one would say that does."""

    def __init__(self, addresses: AddressMap, page_map: PageMap) -> None:
        self._addresses = addresses
        self._page_map = page_map
        self.planned_pages: Counter[int] = Counter()
        """Base pages that would have been moved, by target nid."""
        self.moved_pages: Counter[int] = Counter()
        self.demoted_pages = self.moved_shared_pages = self.moved_hugetlb_pages = 0
        self.n_split = 0
        self.waited_s = Histogram(WAIT_BOUNDS_S)

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """Note that a batch would be moved."""
        self.planned_pages[target_nid] += int(n_pages.sum())
        self._addresses.plan_once(pfns)
        self._addresses.drop(pfns)
        status = np.full(len(pfns), MigrateStatus.ECANCELED, dtype=np.int16)
        events = (FolioEvents(self._page_map.flat_of_pfn(pfns), _NONE),)
        return MigrateResult(status, {DRY_RUN: len(pfns)}, 0.0, events)


def _refuse(
    status: NDArray[np.int16],
    which: NDArray[np.bool_] | NDArray[np.intp],
    code: int,
    why: str,
    reasons: Counter[str],
) -> None:
    count = int(which.sum()) if which.dtype == np.bool_ else len(which)
    if count:
        status[which] = code
        reasons[f"{errno.errorcode.get(-code, str(code))}: {why}"] += count


def _of_call(number: int) -> tuple[int, str]:
    """Return status and reason of every folio that a call refused as a whole left undecided."""
    said = OF_CALL.get(number, f"{CALL_FAILED}{errno.errorcode.get(number, number)}")
    code = -number if -number in list(MigrateStatus) else MigrateStatus.EINVAL
    return code, said
