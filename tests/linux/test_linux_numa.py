"""What a process is allowed and what a node can take, from the kernel's texts; targets within that."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.linux.address_map import Trait
from gpuscan.linux.numa import Allowance, Room, parse_numa_maps, read_allowance, room_by_node
from gpuscan.linux.rooms import Rooms
from gpuscan.linux.system import System
from gpuscan.linux.targets import NO_ROOM, NO_TARGET, NOT_ALLOWED, Targets
from gpuscan.topology import Topology
from gpuscan.topology.evacuation import nearest_first
from gpuscan.topology.lists import parse_list
from gpuscan.topology.zoneinfo import parse_zoneinfo
from machines import node, tiered
from procfs import FakeProcess
from zone_texts import empty_zones, zone

NUMA_MAPS = """\
10000 default anon=3 dirty=3 active=1 N0=1 N2=2 kernelpagesize_kB=4
20000 bind:0-1 anon=4 dirty=4 N1=4 kernelpagesize_kB=4
30000 interleave:0-3 anon=4 dirty=4 N0=2 N3=2 kernelpagesize_kB=4
40000 bind=static|balancing:2 anon=1 N2=1 kernelpagesize_kB=4
50000 prefer (many):1 file=/usr/lib/x\\040y.so mapped=2 N1=2 kernelpagesize_kB=4
60000 default huge dirty=1 N2=1 kernelpagesize_kB=2048
70000 weighted interleave:0,2 anon=1 N0=1 kernelpagesize_kB=4
80000 local stack anon=1 N0=1 kernelpagesize_kB=4
90000 prefer=static:2 anon=1 N2=1 kernelpagesize_kB=4
"""


def test_policies_and_residence():
    lines = parse_numa_maps(NUMA_MAPS)
    assert [line.mode for line in lines] == [
        "default",
        "bind",
        "interleave",
        "bind",
        "prefer (many)",
        "default",
        "weighted interleave",
        "local",
        "prefer",
    ]
    assert lines[1].nids == {0, 1}
    assert lines[3].nids == {2}
    assert lines[5].resident == {2: 512}
    assert parse_list("0-2,5\n") == [0, 1, 2, 5]


def process_with(tmp_path, mems="0-3"):
    process = FakeProcess(tmp_path)
    (process.proc / "numa_maps").write_text(NUMA_MAPS)
    (process.proc / "status").write_text(f"Name:\tfake\nMems_allowed:\t1\nMems_allowed_list:\t{mems}\n")
    return process


def test_an_allowance_sums_up_a_process(tmp_path):
    allowance = read_allowance(process_with(tmp_path))
    assert allowance.nids == {0, 1, 2, 3}
    assert allowance.resident == {0: 5, 1: 6, 2: 516, 3: 2}
    addresses = np.array([0x10000, 0x2FFFF, 0x31000, 0x40000, 0x50000, 0x70000, 0x80000, 0x90000])
    limits = [allowance.policies[number] for number in allowance.policy_of(addresses)]
    assert limits == [None, {0, 1}, set(), {2}, {1}, set(), None, {2}]


def targets_of(targets, allowance, nids, addresses, **kwargs):
    found = targets.of_pages(
        np.array(nids, dtype=np.int32), np.array(addresses, dtype=np.int64), allowance, **kwargs
    )
    return found.tolist()


def test_promotion_within_cpuset_and_policy(tmp_path):
    targets = Targets(tiered())
    assert targets.promotion == {2: 0, 3: 1}
    allowance = read_allowance(process_with(tmp_path))
    nids = [2, 3, 0, 3, 3, 2, 2, 2]
    addresses = [0x10000, 0x10000, 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x90000]
    assert targets_of(targets, allowance, nids, addresses) == [
        0,
        1,
        NO_TARGET,
        1,
        NOT_ALLOWED,
        NOT_ALLOWED,
        1,  # not to node 0, which is nearer
        NOT_ALLOWED,
    ]
    only_one = read_allowance(process_with(tmp_path / "other", mems="1-3"))
    assert targets_of(targets, only_one, [2, 3], [0x10000, 0x10000]) == [1, 1]
    none = read_allowance(process_with(tmp_path / "third", mems="2-3"))
    assert targets_of(targets, none, [2], [0x10000]) == [NOT_ALLOWED]


EVERYWHERE = Allowance(frozenset(range(4)), np.zeros(1, dtype=np.int64), (None,), {})


def test_demotion_goes_down_and_never_up():
    targets = Targets(tiered())
    assert targets.demotion == {0: 2, 1: 3}
    assert targets_of(targets, EVERYWHERE, [0, 1, 2], [0, 0, 0], way="down") == [2, 3, NO_TARGET]


def test_a_node_that_was_named_takes_what_is_beside_and_below():
    assert targets_of(Targets(tiered(), 1), EVERYWHERE, [0, 1, 2, 3], [0] * 4) == [1, NO_TARGET, 1, 1]
    assert targets_of(Targets(tiered(), 3), EVERYWHERE, [0, 1, 2, 3], [0] * 4) == [
        NO_TARGET,
        NO_TARGET,
        3,
        NO_TARGET,
    ]


def test_a_node_that_was_named_and_cannot_take_pages():
    topology = Topology(
        "t", (node(0, (0, 32768), cpus=(0,)), node(1)), np.array([[10, 20], [20, 10]], np.uint8)
    )
    with pytest.raises(InputError, match="node 1 has no memory; give one of the nodes with memory: 0"):
        Targets(topology, 1)
    with pytest.raises(InputError, match="node 7 is not there or not online"):
        Targets(topology, 7)


ZONES = (
    zone(0, "DMA", 1, 4095, protection="(0, 10, 20, 30, 0)", marks=(8, 10, 12, 14))
    + zone(0, "DMA32", 4096, 100_000, protection="(0, 0, 200, 300, 0)", marks=(80, 100, 120, 140))
    + empty_zones(0, "Normal", "Movable", "Device")
)


def test_room_is_what_is_free_above_high_mark_and_reserve():
    zones = parse_zoneinfo(ZONES)
    # The text's free is half of present.
    assert room_by_node(zones) == {0: (4095 // 2 - 12 - 30) + (50_000 - 120 - 300)}


def test_room_is_read_again_when_it_is_old(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/zoneinfo").write_text(ZONES)
    room = Room(System(tmp_path), fresh_ns=10_000_000_000)
    before = room.pages(0)
    room.take(0, 1000)
    assert room.pages(0) == before - 1000
    assert room.pages(9) == 0
    stale = Room(System(tmp_path), fresh_ns=-1)
    stale.take(0, 1000)
    assert stale.pages(0) == before
    fewer = re.sub(r"free( +)50000", r"free\g<1>40000", ZONES)
    for text in (fewer, re.sub(r"high( +)120\b", r"high\g<1>320", fewer)):
        (tmp_path / "proc/zoneinfo").write_text(text)
        left = stale.pages(0)
        assert left == room_by_node(parse_zoneinfo(text))[0] < before
        before = left
    (tmp_path / "proc/zoneinfo").write_text(text + empty_zones(1, "Normal"))
    assert stale.pages(0) == left


def test_a_zone_that_gets_memory_has_room(tmp_path):
    (tmp_path / "proc").mkdir()
    without = ZONES + empty_zones(1, "Movable")
    (tmp_path / "proc/zoneinfo").write_text(without)
    room = Room(System(tmp_path), fresh_ns=-1)
    assert room.pages(1) == 0
    text = ZONES + zone(1, "Movable", 200_000, 100_000, protection="(0, 0, 0, 0, 0)", marks=(8, 10, 12, 14))
    (tmp_path / "proc/zoneinfo").write_text(text)
    assert room.pages(1) == 50_000 - 12
    (tmp_path / "proc/zoneinfo").write_text(without)
    assert room.pages(1) == 0


class Counted(Room):
    """Counts how often zoneinfo is read."""

    n_looks = 0

    def _look(self):
        self.n_looks += 1
        return super()._look()


@pytest.fixture
def machine(tmp_path):
    """Return a room and a function that says what is free on node 0 now, there and in zoneinfo or not."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/zoneinfo").write_text(ZONES)
    node = tmp_path / "sys/devices/system/node/node0"
    node.mkdir(parents=True)
    at_first = sum(zone.free for zone in parse_zoneinfo(ZONES))

    def free_changes(by, *, zoneinfo=False):
        (node / "vmstat").write_text(f"nr_free_pages {at_first + by}\nnr_zone_inactive_anon 7\n")
        if zoneinfo:
            text = re.sub(r"free( +)50000", rf"free\g<1>{50_000 + by}", ZONES)
            (tmp_path / "proc/zoneinfo").write_text(text)

    free_changes(0)
    return Counted(System(tmp_path), fresh_ns=10_000_000_000), free_changes


def test_what_others_take_is_seen_without_reading_zoneinfo_again(machine):
    room, free_changes = machine
    at_first = room.pages(0)
    assert at_first == room_by_node(parse_zoneinfo(ZONES))[0]
    free_changes(-3_000)
    assert room.pages(0) == at_first - 3_000
    room.take(0, 2_000)  # they are among those that are no longer free
    assert room.pages(0) == at_first - 3_000
    room.take(0, 2_000)  # not counted as taken yet: CPUs add up their part of the counters later
    assert room.pages(0) == at_first - 4_000
    free_changes(5_000)  # in a zone that may not count
    assert room.pages(0) == at_first - 4_000
    assert room.n_looks == 1


def test_zoneinfo_is_read_again_when_half_of_the_room_is_gone(machine):
    room, free_changes = machine
    at_first = room.pages(0)
    half = at_first // 2
    free_changes(-half)
    room.pages(0)
    assert room.n_looks == 1
    free_changes(-half - 2, zoneinfo=True)
    assert room.pages(0) == at_first - half - 2
    assert room.n_looks == 2
    free_changes(-(at_first - 3_000), zoneinfo=True)
    assert room.pages(0) == 3_000
    assert room.n_looks == 3


def test_zoneinfo_is_read_more_often_where_a_node_does_not_say_what_is_free(tmp_path, machine):
    room, _ = machine
    room.pages(0)
    room._read_ns -= 5_000_000_000
    room.pages(0)
    assert room.n_looks == 1
    for text in ("nr_something 5\n", None):
        vmstat = tmp_path / "sys/devices/system/node/node0/vmstat"
        vmstat.write_text(text) if text else vmstat.unlink()
        room._read_ns -= 5_000_000_000
        room.pages(0)
    assert room.n_looks == 3


HEAD = 1 << 20


def shared_out(targets, sizes, allowance=EVERYWHERE, *, traits=0, nid=2):
    """Share out folios of a node, of so many pages each, that lie one behind the other."""
    n_pages = np.array(sizes, dtype=np.int64)
    heads = HEAD + np.cumsum(n_pages) - n_pages
    nids, all_traits = np.full(len(heads), nid, dtype=np.int32), np.full(len(heads), int(traits))
    return targets.share_out(heads, n_pages, all_traits, nids, heads << 12, allowance).tolist()


def emptied_of_2(rooms, pools=None):
    """Return targets of a machine whose node 2 is emptied, and the others, the nearest first."""
    topology = tiered()
    targets, nearest = Targets(topology), nearest_first(topology, 2)
    rooms, pools = (
        {nid: dict(zip(nearest, one, strict=False)).get(nid, 0) for nid in range(4)}
        for one in (rooms, pools or ())
    )
    targets.drain([2], Rooms(rooms.__getitem__, pools.__getitem__))
    return targets, *nearest


def test_folios_of_an_emptied_node_fill_the_nearest_nodes_one_after_the_other():
    targets, first, second, _ = emptied_of_2((2, 1))
    assert shared_out(targets, [1] * 4) == [first, first, second, NO_ROOM]
    assert shared_out(targets, [1]) == [NO_ROOM], "of one look"
    targets.begin_look()
    assert shared_out(targets, [1]) == [first]
    targets.begin_look()
    elsewhere = Allowance(frozenset({2, second}), EVERYWHERE.starts, (None,), {})
    assert shared_out(targets, [1, 1], elsewhere) == [second, NO_ROOM]
    nowhere = Allowance(frozenset({2}), EVERYWHERE.starts, (None,), {})
    assert shared_out(targets, [1], nowhere) == [NOT_ALLOWED]
    assert targets_of(targets, nowhere, [2], [0], way="out") == [NOT_ALLOWED]
    assert targets_of(targets, EVERYWHERE, [0], [0], way="out") == [NO_TARGET]


def test_a_large_folio_goes_where_it_fits_as_a_whole_and_small_ones_into_what_is_left():
    targets, first, second, _ = emptied_of_2((300, 512))
    assert shared_out(targets, [512, 1, 512, 1]) == [second, first, NO_ROOM, first]
    targets.begin_look()
    assert shared_out(targets, [1] * 301 + [512]) == [first] * 300 + [NO_ROOM, second]


def test_hugetlb_pages_take_of_the_pools_and_the_others_of_the_rest():
    targets, first, second, third = emptied_of_2((3, 0), (0, 1, 1))
    assert shared_out(targets, [512] * 3, traits=Trait.HUGETLB) == [second, third, NO_ROOM]
    assert shared_out(targets, [1] * 4) == [first] * 3 + [NO_ROOM]


def test_a_shared_folio_takes_room_once_whoever_asks():
    targets, first, second, _ = emptied_of_2((512, 512))
    assert shared_out(targets, [512], traits=Trait.SHARED) == [first]
    assert shared_out(targets, [512], traits=Trait.SHARED) == [first], "the same, of another process"
    elsewhere = Allowance(frozenset({2, second}), EVERYWHERE.starts, (None,), {})
    assert shared_out(targets, [512], elsewhere, traits=Trait.SHARED) == [NO_ROOM], "it is to go to the first"
    assert shared_out(targets, [512]) == [second], "the first is full"
