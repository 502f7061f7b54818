"""The source of a live run under the engine: marks, races, demotion and dry runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import Engine
from gpuscan.linux import resident
from gpuscan.linux.address_map import AddressMap
from gpuscan.linux.resident import NO_PAGES, PageFlags, pages_in
from gpuscan.linux.rooms import Rooms
from gpuscan.linux.targets import Targets
from gpuscan.migrate.move_pages import DryRunMigrator, MovePagesMigrator
from gpuscan.monitors.source import STALE_TICKS, LiveSource
from gpuscan.monitors.touched import REHEARSED_PAGES, UNSEEN, LastSeen, Touched
from gpuscan.monitors.treatment import Same, Treatment
from gpuscan.records.page_flags import Kpf
from gpuscan.store.single import Store
from gpuscan.topology.evacuation import nearest_first
from machines import tiered
from procfs import FakeProcess, large_folio, write_flags
from two_nodes import FAR, FAR_PFN, NEAR, NEAR_PFN, Kernel, Room

BASE = 0x10000
N = 64


class ScriptedMonitor:
    """Sees what :attr:`hot` and :attr:`cold` hold, address ranges of the only process."""

    name = sees = "scripted"

    def __init__(self):
        self.hot = [(BASE, BASE + N * 4096)]
        self.cold = []
        self.sure = False
        self.watched = []

    def watch(self, processes):
        self.watched = list(processes)

    def observe(self, now_ns):
        touched = []
        for process in self.watched:
            hot = pages_in(process, self.hot)
            sure = np.full(len(hot), self.sure)
            touched.append(Touched(hot, pages_in(process, self.cold) if self.cold else NO_PAGES, sure))
        return touched

    def cpu_s(self):
        return 0.0

    def close(self):
        pass


class Bed:
    def __init__(
        self, tmp_path, *, flags=None, dry_run=False, demote=False, room=None, budget_pages=0, keeper=None
    ):
        topology = tiered()
        write_flags(tmp_path, 8 << 15, flags)
        self.process = FakeProcess(tmp_path)
        (self.process.proc / "status").write_text("Mems_allowed_list:\t0-3\n")
        self.process.map(BASE, range(FAR_PFN, FAR_PFN + N))
        self.kernel = Kernel(self.process)
        self.monitor = ScriptedMonitor()
        self.addresses = AddressMap()
        self.store = Store(topology, device="reference", large_folios=True)
        self.flags = PageFlags(tmp_path / "proc/kpageflags")
        self.stop = False
        self.targets = Targets(topology)
        self.source = LiveSource(
            self.monitor,
            self.targets,
            topology.page_map,
            self.flags,
            self.addresses,
            lambda seconds: self.stop,
            keeper=keeper or Same(Treatment(demotes=demote)),
        )
        migrator: DryRunMigrator | MovePagesMigrator
        if dry_run:
            migrator = DryRunMigrator(self.addresses, topology.page_map)
        else:
            migrator = MovePagesMigrator(
                {0: self.process}, self.addresses, topology.page_map, room or Room(), self.kernel
            )
        policy = Policy(interval_ns=1, drop_top_tier=False, backoff_ticks=1, budget_pages=budget_pages)
        self.engine = Engine(self.store, self.source, migrator, policy, verify_every_tick=True)
        self.source.watch([(0, self.process)])
        self.source.start_clock()

    def tick(self, n=1):
        for _ in range(n):
            report = self.engine.tick()
        return report

    def pfn_at(self, address: int) -> int:
        pfn = self.process.pfn_at(address)
        assert pfn is not None, f"no page at {address:#x}"
        return pfn

    def near(self):
        return sum(self.pfn_at(BASE + i * 4096) < FAR_PFN for i in range(N))


@pytest.fixture
def bed(tmp_path):
    return Bed(tmp_path)


def test_what_is_rehearsed_before_the_monitor_is_on_leaves_nothing(tmp_path, monkeypatch):
    rehearsed = []
    folios_of = PageFlags.folios_of

    def noted(flags, pfns):
        rehearsed.append(len(pfns))
        return folios_of(flags, pfns)

    monkeypatch.setattr(PageFlags, "folios_of", noted)
    bed = Bed(tmp_path)
    (bed.process.proc / "maps").write_text(f"{BASE:x}-{BASE + N * 4096:x} rw-p 00000000 00:00 0\n")
    bed.source.watch([])
    bed.source.watch([(0, bed.process)])
    assert rehearsed == [N]
    assert len(bed.addresses) == 0
    assert not bed.source.skipped.total()
    bed.source.watch([(0, bed.process)])  # others came or went: it is no first look any more
    assert rehearsed == [N]


def test_what_is_allowed_is_read_again_after_the_rehearsal_and_before_the_monitor_is_on(
    tmp_path, monkeypatch
):
    done = []
    bed = Bed(tmp_path)
    monkeypatch.setattr(LiveSource, "_rehearse", lambda source: done.append("rehearsed"))
    monkeypatch.setattr(bed.monitor, "watch", lambda processes: done.append("on"))
    allowance_of = bed.source._allowance_of

    def noted(process):
        done.append("read")
        return allowance_of(process)

    monkeypatch.setattr(bed.source, "_allowance_of", noted)
    bed.source.watch([])
    done.clear()
    bed.source.watch([(0, bed.process)])
    assert done == ["read", "rehearsed", "read", "on"]


def test_what_is_allowed_is_read_before_the_look_and_what_is_seen_is_dated_after_that(bed, monkeypatch):
    """It may take long, and what a monitor sees is not older than it thinks."""
    happened: list[object] = []
    clock = SimpleNamespace(ns=10**9)
    system = SimpleNamespace(monotonic_ns=lambda: clock.ns)
    monkeypatch.setattr(bed.source, "_system", system)
    observe, allowance_of = bed.monitor.observe, bed.source._allowance_of

    def slow(process):
        happened.append("read")
        clock.ns += 3 * 10**9
        return allowance_of(process)

    def dated(now_ns):
        happened.append(("look", now_ns))
        return observe(now_ns)

    monkeypatch.setattr(bed.source, "_allowance_of", slow)
    monkeypatch.setattr(bed.monitor, "observe", dated)
    for member in bed.source.members:
        member.read_again_ns = 0
    bed.source._started_ns = clock.ns
    sampled = bed.source.sample(0, 1)
    assert happened == ["read", ("look", 4 * 10**9)]
    assert sampled.metrics["observe_ns"] == 3 * 10**9
    clock.ns += 10**9
    bed.source.sample(3 * 10**9, 1)
    assert happened[2:] == [("look", 5 * 10**9)], "read again after 20 times as long as it took"


def test_two_looks_move_what_is_far_and_the_time_is_real(bed):
    first = bed.tick()
    assert (first.marked, bed.near()) == (0, 0)
    second = bed.tick()
    assert (second.marked, second.migrated, bed.near()) == (N, N, N)
    assert second.duration_ns > 1  # not the interval, but what passed
    assert second.now_ns == first.duration_ns
    third = bed.tick(3)
    assert third.metrics["hot_near_pages"] == N
    assert third.marked == 0
    bed.engine.put_back()
    bed.engine.verify()


def test_one_look_that_is_proof_enough(bed):
    bed.monitor.sure = True
    assert bed.tick().migrated == N


def test_a_large_folio_moves_by_one_address(tmp_path):
    head = FAR_PFN + 512
    bed = Bed(tmp_path, flags=large_folio(head, 9))
    bed.process.map(0x40_0000, range(head, head + 512))
    bed.monitor.hot = [(0x40_3000, 0x40_3000 + 256 * 4096)]
    bed.tick(2)
    assert bed.kernel.calls == [[0x40_3000]]
    assert bed.engine.ledger.migrated == 1


def test_a_large_folio_of_which_a_small_part_is_hot_stays(tmp_path):
    head = FAR_PFN + 512
    bed = Bed(tmp_path, flags=large_folio(head, 9), demote=True)
    bed.process.map(0x40_0000, range(head, head + 512))
    bed.monitor.hot = [(0x40_0000, 0x40_0000 + 255 * 4096)]
    bed.tick(3)
    assert bed.kernel.calls == []
    assert bed.source.skipped["part of a large folio"] == 3 * 255


def test_a_large_folio_goes_down_when_all_of_it_is_cold(tmp_path):
    head = NEAR_PFN + 512
    bed = Bed(tmp_path, flags=large_folio(head, 9), demote=True)
    bed.process.map(0x40_0000, range(head, head + 512))
    bed.monitor.hot = []
    bed.monitor.cold = [(0x40_0000, 0x40_0000 + 511 * 4096)]
    bed.tick(2)
    assert bed.kernel.calls == []
    bed.monitor.cold = [(0x40_0000, 0x40_0000 + 512 * 4096)]
    bed.tick()
    assert bed.kernel.calls == [[0x40_0000]]


def test_pages_of_several_processes_and_of_no_lru_list_are_no_candidates(tmp_path):
    bed = Bed(tmp_path, flags={FAR_PFN + 1: 0})
    bed.process.map(BASE, [FAR_PFN], exclusive=False)
    bed.tick(2)
    assert bed.source.skipped["mapped by several processes"] == 2
    assert bed.source.skipped["not on an LRU list"] == 2
    assert bed.near() == N - 2


def test_a_frame_given_out_again_loses_its_count(bed):
    bed.tick()
    bed.process.unmap(BASE, 2)
    bed.process.map(BASE, [FAR_PFN + 1, FAR_PFN])  # swapped: each is another address's now
    report = bed.tick()
    assert bed.source.skipped["frame given out again, or remapped"] == 2
    assert report.migrated == N - 2
    assert bed.tick().migrated == 2  # counted anew


def test_candidates_that_cooled_are_given_up_with_a_reason(tmp_path):
    bed = Bed(tmp_path, room=Room(0))
    bed.tick(2)
    assert bed.engine.ledger.in_flight == N
    bed.monitor.hot = [(0, 4096)]
    bed.tick(STALE_TICKS + 3)
    ended = bed.engine.ledger.dropped
    assert sum(ended.values()) == N
    assert len(bed.addresses) == 0


def test_a_full_target_is_tried_again_and_nothing_is_lost(tmp_path):
    room = Room(10)
    bed = Bed(tmp_path, room=room)
    bed.tick(2)
    assert bed.near() == 10
    assert bed.engine.refusals["EAGAIN: target not balanced"] == N - 10
    room.left = 1000
    bed.tick(8)
    assert bed.near() == N


def test_a_process_that_ends_ends_the_run(bed):
    bed.tick()
    bed.process.alive = False
    report = bed.tick()
    assert bed.engine.refusals == {"ENOENT: process ended": report.refused}
    assert bed.source.finished()
    assert bed.source.end_reason == "process ended"


def test_the_end_of_the_time_and_an_interrupt(tmp_path):
    bed = Bed(tmp_path)
    assert not bed.source.finished()
    bed.source.start_clock(for_ns=0)
    assert bed.source.finished()
    assert bed.source.end_reason == "time is over"
    other = Bed(tmp_path)
    other.stop = True
    assert other.tick().metrics["observe_ns"] >= 0
    assert other.monitor.hot
    assert other.source.finished()
    assert other.source.end_reason == "interrupted"


def test_a_dry_run_plans_each_folio_once_and_moves_nothing(tmp_path):
    bed = Bed(tmp_path, dry_run=True)
    bed.tick(2)
    assert bed.engine.ledger.dropped == {"refused: ECANCELED": N}
    assert bed.tick(6).candidates == 0
    assert bed.near() == 0
    assert bed.kernel.calls == []


def test_cold_pages_go_down_and_hot_ones_up(tmp_path):
    bed = Bed(tmp_path, demote=True)
    bed.process.map(0x90_0000, range(NEAR_PFN + 100, NEAR_PFN + 110))
    bed.monitor.cold = [(0x90_0000, 0x90_A000)]
    requested = []
    plain = bed.engine.migrator.migrate

    def noted(nid, pfns, n):
        requested.append((nid, len(pfns)))
        return plain(nid, pfns, n)

    bed.engine.migrator.migrate = noted  # type: ignore[method-assign]
    bed.tick(2)
    assert sorted(requested) == [(NEAR, N), (FAR, 10)]


@pytest.mark.parametrize(
    ("room", "reason"), [(Room(), "accessed again"), (Room(0), "accessed again while it waited")]
)
def test_what_is_accessed_again_before_it_went_down_stays(tmp_path, room, reason):
    bed = Bed(tmp_path, demote=True, room=room, budget_pages=2)
    cold = range(NEAR_PFN + 100, NEAR_PFN + 110)
    bed.process.map(0x90_0000, cold)
    bed.monitor.hot, bed.monitor.cold = [], [(0x90_0000, 0x90_A000)]
    bed.tick()
    n_left = sum(bed.process.pfn_at(0x90_0000 + i * 4096) in cold for i in range(10))
    assert n_left == (8 if room.left else 10)
    bed.monitor.hot, bed.monitor.cold = [(0x90_0000, 0x90_9000)], []
    bed.tick()
    assert bed.engine.ledger.dropped[reason] > 0
    bed.tick(6)
    # The last page was not accessed again.
    assert sum(bed.process.pfn_at(0x90_0000 + i * 4096) in cold for i in range(9)) == n_left - 1
    assert sum(n for why, n in bed.engine.ledger.dropped.items() if "accessed again" in why) == n_left - 1


def test_a_large_folio_of_which_one_page_is_accessed_again_stays(tmp_path):
    head = NEAR_PFN + 512
    bed = Bed(tmp_path, flags=large_folio(head, 9), demote=True, budget_pages=100)
    bed.process.map(0x40_0000, range(head, head + 512))
    bed.monitor.hot, bed.monitor.cold = [], [(0x40_0000, 0x40_0000 + 512 * 4096)]
    bed.tick()
    assert bed.engine.ledger.pending == 1  # larger than the budget
    bed.monitor.hot, bed.monitor.cold = [(0x40_7000, 0x40_8000)], []
    bed.tick()
    assert bed.engine.ledger.dropped == {"accessed again": 1}
    assert len(bed.addresses) == 0


def test_a_rehearsal_is_on_a_few_pages(tmp_path, monkeypatch):
    bed = Bed(tmp_path)
    bed.process.add_mapping(BASE, BASE + N * 4096)
    bed.process.add_mapping(1 << 40, 1 << 44)
    n_words, words = [], resident._words

    def counting(system, fd, low, high):
        n_words.append(high - low)
        return words(system, fd, low, high)

    monkeypatch.setattr(resident, "_words", counting)
    bed.source.watch([])
    bed.source.watch([(0, bed.process)])
    assert sum(n_words) <= 9 * REHEARSED_PAGES


def test_when_a_page_was_last_seen():
    seen = LastSeen()
    pages = np.array([1, 2, 3]) << 12
    hot = np.array([True, False, False])
    assert seen.cold(pages, hot, 0, 100).tolist() == [False, False, False]  # all are new
    assert seen.cold(pages, hot, 99, 100).tolist() == [False, False, False]
    assert seen.cold(pages, ~hot, 150, 100).tolist() == [False, False, False]
    later = np.array([2, 3, 4]) << 12
    assert seen.cold(later, np.zeros(3, dtype=np.bool_), 260, 100).tolist() == [True, True, False]


def test_the_memory_of_a_process_that_is_not_watched_is_counted(tmp_path, monkeypatch):
    bed = Bed(tmp_path)
    (bed.process.proc / "numa_maps").write_text(f"{BASE:x} default anon={N} N2={N} kernelpagesize_kB=4\n")
    bed.source.watch([(1, bed.process)])
    monkeypatch.setattr(bed.monitor, "observe", lambda now_ns: [UNSEEN])
    bed.engine.tick()
    assert bed.source.skipped["of a process not watched, there are too many"] == N


class Keeper:
    """Treats all alike, with room for so many pages, and notes what became a candidate."""

    def __init__(self, room_pages=None, **treatment):
        self.kind, self.room_pages, self.entered_pages = treatment, room_pages, []

    def treatment(self, number):
        return Treatment(room_pages=self.room_pages, **self.kind)

    def entered(self, number, n_pages, way):
        self.entered_pages.append(n_pages)
        if self.room_pages is not None:
            self.room_pages -= n_pages


def test_a_process_has_as_many_candidates_as_there_is_room_for(tmp_path):
    keeper = Keeper(room_pages=5)
    bed = Bed(tmp_path, keeper=keeper)
    bed.tick()
    assert (len(bed.addresses), keeper.entered_pages) == (5, [5])
    assert bed.source.skipped["held back, the budget has no room yet"] == N - 5
    bed.tick()  # those that are candidates are seen again, without room for others
    assert bed.near() == 5
    keeper.room_pages = N
    bed.tick(2)
    assert bed.near() == N


def test_what_is_not_to_go_up_stays_and_is_counted(tmp_path):
    bed = Bed(tmp_path, keeper=Keeper(promotes=False))
    report = bed.tick(3)
    assert (bed.near(), len(bed.addresses)) == (0, 0)
    assert report.metrics["hot_pages"] == N
    (member,) = bed.source.members
    assert (member.hot_pages, member.hot_near_pages) == (N, 0)


@pytest.mark.parametrize(("nids", "moves"), [({NEAR, FAR}, True), ({FAR}, False)])
def test_pages_go_to_nodes_that_their_treatment_names(tmp_path, nids, moves):
    bed = Bed(tmp_path, keeper=Keeper(nids=frozenset(nids)))
    bed.tick(3)
    assert bed.near() == (N if moves else 0)
    skipped = bed.source.skipped["not allowed there (cpuset or memory policy)"]
    assert bool(skipped) != moves


def test_more_looks_may_be_asked_for(tmp_path):
    bed = Bed(tmp_path, keeper=Keeper(threshold=4))
    bed.tick(3)
    assert bed.near() == 0
    bed.tick()
    assert bed.near() == N


def test_cold_memory_may_have_to_stay_so_for_longer(tmp_path):
    keeper = Keeper(demotes=True, cold_wait_ns=1 << 60)
    bed = Bed(tmp_path, keeper=keeper)
    bed.process.map(0x90_0000, range(NEAR_PFN + 100, NEAR_PFN + 110))
    bed.monitor.hot, bed.monitor.cold = [], [(0x90_0000, 0x90_A000)]
    bed.tick(3)
    assert len(bed.addresses) == 0
    keeper.kind["cold_wait_ns"] = 1
    bed.tick()
    assert all(bed.pfn_at(0x90_0000 + i * 4096) >= FAR_PFN for i in range(10))


def test_a_node_is_emptied_whatever_is_hot_there_and_nothing_goes_there(tmp_path):
    bed = Bed(tmp_path, keeper=Keeper(promotes=False))
    (bed.process.proc / "maps").write_text(f"{BASE:x}-{BASE + N * 4096:x} rw-p 00000000 00:00 0\n")
    bed.targets.drain([NEAR])
    assert NEAR not in {*bed.targets.promotion.values(), *bed.targets.demotion.values()}
    bed.tick(2)
    assert bed.near() == 0
    bed.targets.drain([FAR, 3])  # so there is none of the same tier, and up it goes
    assert bed.targets.draining == {FAR: NEAR, 3: 1}
    bed.tick(2)
    assert bed.near() == N
    with pytest.raises(InputError, match="node 9 has no memory here"):
        bed.targets.drain([9])
    with pytest.raises(InputError, match="all nodes with memory would be emptied"):
        bed.targets.drain(range(4))
    assert bed.targets.drained == {FAR, 3}


@pytest.mark.parametrize("is_hugetlb", [False, True])
def test_a_large_folio_leaves_as_a_whole_for_a_node_that_has_room_for_it(tmp_path, is_hugetlb):
    n = 512
    huge = 1 << Kpf.HUGE | 1 << Kpf.COMPOUND_TAIL
    flags = large_folio(FAR_PFN, 9)
    if is_hugetlb:
        flags = dict.fromkeys(range(FAR_PFN, FAR_PFN + n), huge) | {FAR_PFN: huge ^ 3 << Kpf.COMPOUND_HEAD}
    bed = Bed(tmp_path, flags=flags, dry_run=True, keeper=Keeper(promotes=False))
    bed.process.map(BASE, range(FAR_PFN, FAR_PFN + n + 40))
    bed.process.add_mapping(BASE, BASE + (n + 40) * 4096)
    first, second, third = nearest_first(tiered(), FAR)
    rooms, pools = {first: 300, second: n + 100, third: 0}, {first: 0, second: 0, third: 1}
    bed.targets.drain([FAR], Rooms(rooms.__getitem__, pools.__getitem__))
    bed.tick(3)
    assert isinstance(bed.engine.migrator, DryRunMigrator)
    assert bed.engine.migrator.planned_pages == {first: 40, third if is_hugetlb else second: n}
    assert not len(bed.source.no_room)


def test_what_a_dry_run_planned_keeps_its_room(tmp_path):
    bed = Bed(tmp_path, dry_run=True, keeper=Keeper(promotes=False))
    bed.process.add_mapping(BASE, BASE + N * 4096)
    bed.targets.drain([FAR], Rooms(lambda nid: 10, lambda nid: 0))
    bed.tick(3)
    assert isinstance(bed.engine.migrator, DryRunMigrator)
    assert bed.engine.migrator.planned_pages.total() == 30
    assert len(bed.source.no_room) == N - 30
    assert bed.source.skipped["no node has room"] == 3 * (N - 30)


def test_requests_of_who_is_not_watched_any_more_end(tmp_path):
    bed = Bed(tmp_path, room=Room(0))
    bed.tick(2)
    assert bed.engine.ledger.pending + bed.engine.ledger.in_flight == N
    bed.source.watch([])
    assert len(bed.addresses) == 0
    bed.tick()
    assert bed.engine.ledger.pending + bed.engine.ledger.in_flight == 0
    (reason,) = bed.engine.ledger.dropped
    assert reason.startswith("not watched any more")


def test_a_witness_is_told_once_who_is_watched_no_more(bed):
    told = []
    bed.source._witness = SimpleNamespace(
        read=lambda number, process: told.append(("read", number)),
        gone=lambda number: told.append(("gone", number)),
    )
    bed.source.watch([(0, bed.process), (5, bed.process)])
    bed.source.watch([(5, bed.process)])
    bed.source.watch([(5, bed.process)])
    bed.source.watch([])
    assert told == [("read", 5), ("gone", 0), ("gone", 5)]


def test_a_source_that_goes_on_outlives_its_processes(bed):
    bed.source._goes_on = True
    bed.source.watch([])
    assert not bed.source.finished()
    assert bed.tick().candidates == 0


class Backlog:
    """Has room for so many candidates at a time, as they stand in the address map; down apart from up."""

    def __init__(self, most, **treatment):
        self.most, self.kind = most, treatment
        self.source: Any = None

    def treatment(self, number):
        up, down = self.source.pending_pages().get(number, (0, 0))
        rooms = {"room_pages": max(0, self.most - up), "room_down_pages": max(0, self.most - down)}
        return Treatment(**rooms, **self.kind)

    def entered(self, number, n_pages, way):
        pass


def test_candidates_that_find_no_room_above_hinder_neither_those_that_go_down_nor_others_for_long(tmp_path):
    keeper = Backlog(4, demotes=True)
    bed = Bed(tmp_path, keeper=keeper, room=Room(0))
    keeper.source = bed.source
    bed.process.map(0x90_0000, range(NEAR_PFN + 100, NEAR_PFN + 110))
    bed.tick(3)
    first = set(bed.addresses.of_process(0).tolist())
    assert len(first) == 4
    bed.monitor.cold = [(0x90_0000, 0x90_A000)]
    bed.tick()
    assert bed.source.pending_pages() == {0: (4, 4)}
    bed.monitor.cold = []
    bed.tick(STALE_TICKS + 6)
    later = {head for head in bed.addresses.of_process(0).tolist() if head >= FAR_PFN}
    assert later
    assert not first & later


def test_what_is_on_its_way_is_let_go_when_another_rule_holds(tmp_path):
    bed = Bed(tmp_path, room=Room(0))
    bed.tick(2)
    bed.source.let_go([7], "another rule holds")
    assert len(bed.addresses) == N
    bed.source.let_go([0], "another rule holds")
    bed.monitor.hot = []
    bed.tick()
    assert bed.engine.ledger.pending + bed.engine.ledger.in_flight == 0
    assert any(why.startswith("another rule holds") for why in bed.engine.ledger.dropped)
