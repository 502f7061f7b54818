"""Policies of processes: treatments, grants, what is counted; and whom rules select as processes change."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux.system import System
from gpuscan.service.config import COLD_AUTO_NS
from gpuscan.service.governor import LOOK_MOVES_NS, Governor
from gpuscan.service.load import config_of
from gpuscan.service.selection import RuleSelection

_S = 1_000_000_000
ONES = np.ones(10, dtype=np.int64)


def config(*rules, **budget):
    return config_of("x", {"rule": list(rules), "budget": budget})


def governor_of(*rules, cold_ns=None, **budget):
    governor = Governor(config(*rules, **budget), cold_ns)
    governor.assign({number: rule["name"] for number, rule in enumerate(rules)})
    return governor


def test_each_process_is_treated_as_its_rule_says():
    governor = governor_of(
        {"name": "up", "policy": "promote", "hot": 3, "nodes": [0, 2]},
        {"name": "down", "policy": "demote", "cold_after": "40s"},
        {"name": "auto", "hot": "auto", "cold_after": "auto"},
        cold_ns=10 * _S,
    )
    up, down, auto = (governor.treatment(number) for number in range(3))
    assert (up.promotes, up.demotes, up.threshold, up.nids) == (True, False, 3, {0, 2})
    assert (down.promotes, down.demotes, down.cold_wait_ns, down.room_pages) == (False, True, 30 * _S, None)
    assert (auto.threshold, auto.nids) == (2, None)
    assert 0 < auto.cold_wait_ns < COLD_AUTO_NS[1]
    nobody = governor.treatment(7)
    assert not nobody.promotes
    assert not nobody.demotes
    assert governor.grant(7, ONES) == 0


def test_candidates_fill_the_room_of_a_rule_and_not_of_others():
    governor = governor_of({"name": "a", "rate": "4MB/s"}, {"name": "b"})
    governor.begin(_S, {0: (500, 7), 5: (900, 0)}, 0)
    room = 2 * 4_000_000 // PAGE_BYTES
    assert governor.treatment(0).room_pages == room - 500
    governor.entered(0, 100, "up")
    assert governor.treatment(0).room_pages == room - 600
    governor.entered(0, 10**6, "out")
    assert governor.treatment(0).room_pages == 0
    assert governor.treatment(0).room_down_pages == room - 7  # what waits for room above does not hinder it
    assert governor.treatment(1).room_pages is None


def test_what_was_granted_and_did_not_move_is_there_again():
    governor = governor_of({"name": "a", "rate": f"{10 * PAGE_BYTES}B/s"})
    governor.begin(_S, {}, 0)
    assert governor.grant(0, ONES) == 10
    governor.settled(0, 2, 4, 1, {"EBUSY: busy": 6}, 0)
    assert governor.grant(0, ONES) == 6
    governor.settled(0, 0, 6, 0, {}, 0)
    state = governor.policies["a"]
    assert (state.moved_to, state.demoted_pages, state.refused) == ({2: 4, 0: 6}, 1, {"EBUSY: busy": 6})


def test_moves_of_a_look_are_bounded_and_it_is_alive_meanwhile():
    governor = governor_of({"name": "a", "hot": "auto"})
    alive = []
    governor.on_call = lambda: alive.append("")
    governor.begin(_S, {}, 0)
    governor.treatment(0)  # finding pages of one process after the other takes long, too
    assert len(alive) == 1
    for n_calls in range(1, 11):
        assert governor.grant(0, ONES) == 10
        assert governor.chunk_pages() > 0
        governor.called(10, 10, LOOK_MOVES_NS // 10)
        governor.settled(0, 2, 10, 0, {}, 0)
        assert len(alive) == 1 + n_calls
    assert governor.chunk_pages() == 0  # nor does what was granted go on
    assert governor.grant(0, ONES) == 0
    assert len(alive) == 12  # holding back many batches, too
    governor.begin(6 * _S, {}, 0)
    assert governor.grant(0, ONES) == 10
    assert governor.policies["a"].looks.looks == 2  # it was time that held them back, no budget


def test_another_configuration_keeps_what_was_counted_by_name():
    governor = governor_of({"name": "a"}, {"name": "gone"})
    governor.grant(0, ONES)
    governor.settled(0, 0, 10, 0, {}, 0)
    governor.configure(config({"name": "new"}, {"name": "a", "policy": "off"}), None)
    assert list(governor.policies) == ["new", "a"]
    assert governor.policies["a"].moved_to == {0: 10}
    assert governor.rule_of(0) is None  # until it is assigned anew
    governor.assign({0: "a", 1: "gone"})
    assert (governor.rule_of(0), governor.rule_of(1)) == ("a", None)


def test_no_room_above_makes_cold_come_sooner_for_all():
    governor = governor_of({"name": "a"}, {"name": "b", "cold_after": "auto"}, cold_ns=10 * _S)
    before_ns = governor.policies["b"].cold_after_ns
    governor.settled(0, 0, 0, 0, {"EAGAIN: target not balanced": 3}, 3)
    governor.begin(_S, {}, 0)
    assert governor.policies["b"].cold_after_ns == before_ns // 2
    governor.settled(0, 0, 0, 0, {"EAGAIN: target not balanced": 3}, 0)  # cold pages find none below
    governor.begin(_S, {}, 0)
    assert governor.policies["b"].cold_after_ns > before_ns // 2


class Machine(System):
    """Processes by name and cgroup; counts how often each is read."""

    def __init__(self):
        super().__init__()
        self.processes = {}
        self.were_read = []
        self.hidden = set()

    def names_in(self, place):
        return ["self", *map(str, self.processes)]

    def getpid(self):
        return 1

    def user_name(self, uid):
        return "root"

    def read_text(self, path):
        pid, name = int(path.parts[-2]), path.name
        if pid in self.hidden:
            raise PermissionError
        if pid not in self.processes:
            raise FileNotFoundError
        command, flags = self.processes[pid]
        if name == "stat":
            self.were_read.append(pid)
            return f"{pid} ({command}) S 1 1 1 0 -1 {flags} 0 0 0 0 1 1 0 0 20 0 1 0 5 0 0\n"
        return "0::/x\n" if name == "cgroup" else "Uid:\t0\t0\t0\t0\n"


@pytest.fixture
def machine():
    return Machine()


def test_who_comes_executes_and_goes(machine):
    selection = RuleSelection(config({"name": "db", "command": "db"}).rule, machine)
    machine.processes = {1: ("db", 0), 2: ("sh", 0), 3: ("db", 0x20_0000), 4: ("db", 0)}
    machine.hidden = {4}
    assert selection.pids() == []  # 1 is gpuscan itself, 3 a thread of the kernel's, 4 not ours to see
    machine.processes[2] = ("db", 0)
    assert selection.pids() == [2]
    rule = selection.verdicts[2].rule
    assert rule is not None
    assert rule.name == "db"
    machine.processes[2] = ("other", 0)
    assert selection.pids() == []
    del machine.processes[2]
    assert selection.pids() == []
    selection.use(config({"name": "all"}, {"name": "never"}).rule)
    machine.processes[9] = ("x", 0)
    assert selection.pids() == [9]
    selection.use(config({"name": "all", "policy": "off"}).rule)
    assert selection.pids() == []


def test_old_processes_are_read_by_turns_and_new_and_selected_ones_each_time(machine):
    selection = RuleSelection(config({"name": "db", "command": "db"}).rule, machine)
    machine.processes = dict.fromkeys(range(100, 400), ("sh", 0))
    machine.processes[50] = ("db", 0)
    for _ in range(4):
        selection.pids()
    machine.were_read.clear()
    selection.pids()
    assert len(machine.were_read) == 64 + 1
    machine.processes[399] = ("db", 0)  # it executes another program late
    for _ in range(5):
        found = selection.pids()
    assert found == [50, 399]
