"""A node is emptied of what some processes have there: where it goes, when that is over, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.cli.live import _print
from gpuscan.cli.output import Output
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.linux.numa import Room
from gpuscan.live.document import end_document
from gpuscan.live.evacuation import Evacuation
from gpuscan.live.request import LiveRequest
from gpuscan.live.session import LiveSession
from gpuscan.monitors.source import LARGER
from gpuscan.records.page_flags import Kpf
from livesim.machine import Machine
from livesim.run import run
from livesim.scenario import evacuation, scenario
from livesim.system import SimulatedSystem
from livesim.world import EXCLUSIVE, FAR, PFN_BITS, SECTION, Proc

QUIET = replace(scenario(0), selection="pids", n_pages=(60, 40), events=(), demote=False, evacuate=FAR)
OVER = "nothing that can move is left on node 2"
GIVEN_UP = "what is left on node 2 does not move"
HIGH = 3
"""Free pages that a node keeps: the high watermark of its zone."""


def machine_with(room: dict[int, int] | None = None, **changes: Any) -> Machine:
    """Return a machine on which nodes have so much room and no more."""
    machine = Machine(replace(QUIET, **changes))
    squeeze(machine, room or {})
    return machine


def squeeze(machine: Machine, room: dict[int, int]) -> None:
    """Leave nodes so much room and no more."""
    system = SimulatedSystem(machine)
    for nid, n_pages in room.items():
        machine.world.pressure[nid] += Room(system).pages(nid) - n_pages
        assert Room(system).pages(nid) == n_pages


def emptied(
    machine: Machine, on_tick: Callable[[TickReport], None] = lambda _: None, **changes: Any
) -> tuple[LiveSession, RunReport]:
    """Empty node 2 of what the processes have there; return the session and its report."""
    pids = tuple(pid for pid, proc in machine.world.processes.items() if proc.is_target)
    whom: dict[str, Any] = {"pids": pids, "device": "cpu", "n_threads": 1, "evacuate_nid": FAR} | changes
    with LiveSession(LiveRequest(**whom), SimulatedSystem(machine)) as session:
        report = session.run(lambda: None, lambda tick, *_: on_tick(tick))
    return session, report


def far_pages(proc: Proc) -> NDArray[np.intp]:
    """Return which pages of a process are on node 2."""
    there = (proc.words & PFN_BITS) // np.uint64(SECTION) == FAR
    return np.flatnonzero((proc.words != 0) & there)


def far_frames(proc: Proc) -> NDArray[np.int64]:
    return (proc.words[far_pages(proc)] & PFN_BITS).astype(np.int64)


def left_of(session: LiveSession, report: RunReport) -> dict[str, int]:
    left: dict[str, int] = end_document(session, report)["evacuation"]["left"]
    return left


def frames(machine: Machine) -> np.ndarray:
    words = np.concatenate([proc.words[proc.words != 0] for proc in machine.world.running()])
    return words & PFN_BITS


def test_every_page_leaves_for_the_nearest_node_whoever_uses_it() -> None:
    machine = machine_with()
    n_pages = machine.world.pages_on(FAR)
    assert n_pages > 30
    session, report = emptied(machine)
    assert machine.world.pages_on(FAR) == 0
    assert session.totals.moved_to == {0: n_pages}
    document = end_document(session, report)
    assert document["evacuation"] == {"node": FAR, "left_pages": 0, "left": {}}
    assert document["reason"] == OVER
    assert session.totals.exit_code == 0
    assert (session.monitor.name, session.totals.hot_pages) == ("none", 0)


def test_what_does_not_fit_on_the_nearest_node_goes_to_the_next() -> None:
    machine = machine_with({0: 10})
    n_pages = machine.world.pages_on(FAR)
    session, _ = emptied(machine)
    assert session.totals.moved_to == {0: 10, 1: n_pages - 10}
    assert session.totals.exit_code == 0


def test_what_fits_nowhere_is_left_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    machine = machine_with({0: 10, 1: 5})
    n_pages = machine.world.pages_on(FAR)
    session, report = emptied(machine)
    assert session.totals.moved_to == {0: 10, 1: 5}
    said = end_document(session, report)
    left = n_pages - 15
    assert said["evacuation"] == {"node": FAR, "left_pages": left, "left": {"no node has room": left}}
    assert said["reason"] == GIVEN_UP
    assert session.totals.exit_code == 4
    _print(session, report, Output(json_mode=False))
    assert f"{left:,} pages: no node has room" in capsys.readouterr().out


def test_pages_that_others_map_are_left() -> None:
    machine = machine_with()
    for proc in machine.world.running():
        shared = np.flatnonzero((proc.words & PFN_BITS) // np.uint64(SECTION) == FAR)[:4]
        machine.world.n_mapped[(proc.words[shared] & PFN_BITS).astype(np.int64)] += np.uint64(1)
    session, report = emptied(machine)
    assert end_document(session, report)["evacuation"]["left"] == {"mapped by several processes": 8}
    assert machine.world.pages_on(FAR) == 8
    assert session.totals.exit_code == 4


def test_what_the_kernel_keeps_refusing_is_given_up_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_with()
    monkeypatch.setattr(machine.world.chance, "random", lambda: 0.0)
    monkeypatch.setattr(machine.world.chance, "choice", lambda codes: codes[0])
    session, report = emptied(machine)
    said, n_pages = end_document(session, report), machine.world.pages_on(FAR)
    assert said["reason"] == GIVEN_UP
    assert said["evacuation"]["left"] == {"EBUSY: busy, could not be isolated": n_pages}
    assert n_pages > 30
    assert session.totals.exit_code == 4


def test_pages_that_stay_take_no_room_of_those_that_can_go() -> None:
    machine = machine_with(n_pages=(60,))
    (proc,) = machine.world.running()
    n_shared = len(far_pages(proc))
    stranger = machine.world.spawn(0, is_target=False, command="stranger")
    machine.world.share(stranger, proc)
    machine.world.map(proc, 40)  # at higher addresses
    far = far_frames(proc)
    no_list = far[n_shared : n_shared + 3]
    machine.world.flags[no_list] = 0
    n_free = len(far) - n_shared - len(no_list)
    assert min(n_shared, n_free) > 15
    squeeze(machine, {0: n_free, 1: 0})
    session, report = emptied(machine)
    assert session.totals.moved_to == {0: n_free}
    assert left_of(session, report) == {"mapped by several processes": n_shared, "not on an LRU list": 3}
    assert end_document(session, report)["reason"] == OVER


def test_of_shared_pages_each_takes_room_and_is_counted_once() -> None:
    for shared, room in (("watched", 1 << 20), ("watched", 0), ("never", 1 << 20)):
        machine = machine_with(n_pages=(60,))
        (proc,) = machine.world.running()
        for _ in range(3):
            machine.world.share(machine.world.spawn(0), proc)
        n_pages = len(far_pages(proc))
        squeeze(machine, {0: min(room, n_pages), 1: 0})
        session, report = emptied(machine, shared=shared)
        if shared == "never":
            assert left_of(session, report) == {"mapped by several processes": n_pages}
        elif not room:
            assert left_of(session, report) == {"no node has room": n_pages}
        else:
            assert left_of(session, report) == {}
            assert session.totals.moved_to == {0: n_pages}


def test_pages_that_not_all_may_have_elsewhere_take_no_room() -> None:
    machine = machine_with(n_pages=(60,))
    (proc,) = machine.world.running()
    other = machine.world.spawn(0)
    other.mems = "1-2"
    machine.world.share(other, proc)
    n_shared = len(far_pages(proc))
    machine.world.map(proc, 40)
    n_own = len(far_pages(proc)) - n_shared
    assert min(n_shared, n_own) > 15
    for room, left in ((0, n_shared), (7, n_shared - 7)):
        squeeze(machine, {0: n_own, 1: room})
        session, report = emptied(machine)
        assert session.totals.moved_to == {nid: n for nid, n in ((0, n_own), (1, room)) if n}
        assert left_of(session, report) == {"no node has room": left}
        n_own = 0
    other.mems = "2"
    squeeze(machine, {0: 100, 1: 100})
    session, report = emptied(machine)
    assert left_of(session, report)["mapped by several processes"] == left


def test_zero_pages_are_nobodys_and_do_not_count() -> None:
    machine = machine_with(n_pages=(60,))
    (proc,) = machine.world.running()
    places, pfns = far_pages(proc)[:3], far_frames(proc)[:3]
    proc.words[places] &= ~EXCLUSIVE
    machine.world.flags[pfns] = 1 << Kpf.ZERO_PAGE
    session, report = emptied(machine)
    assert left_of(session, report) == {}
    assert session.totals.exit_code == 0
    assert machine.world.pages_on(FAR) == 3


def test_hugetlb_pages_that_are_not_moved_are_called_that() -> None:
    machine = machine_with(n_pages=(60,))
    (proc,) = machine.world.running()
    machine.world.flags[far_frames(proc)[:4]] = 1 << Kpf.HUGE | 1 << Kpf.COMPOUND_TAIL
    assert left_of(*emptied(machine)) == {LARGER: 4}


def test_room_that_is_made_meanwhile_is_used() -> None:
    machine = machine_with({0: 0, 1: 0})

    def on_tick(tick: TickReport) -> None:
        if tick.tick == 10:
            machine.world.pressure[0] = 0

    session, report = emptied(machine, on_tick)
    assert left_of(session, report) == {}
    assert end_document(session, report)["reason"] == OVER
    assert session.totals.exit_code == 0


def test_a_dry_run_does_not_wait_for_room() -> None:
    machine = machine_with({0: 0, 1: 0})
    session, report = emptied(machine, dry_run=True)
    assert end_document(session, report)["reason"] == OVER
    assert session.totals.n_ticks == 1


def test_a_child_forked_meanwhile_is_emptied_too() -> None:
    machine = machine_with(selection="cgroup")
    children: list[Proc] = []

    def on_tick(tick: TickReport) -> None:
        if len(children) < 3 and machine.world.pages_on(FAR) == 0:
            children.append(machine.world.spawn(40, parent=machine.world.running()[0]))
            assert len(far_pages(children[-1])) > 10

    session, report = emptied(machine, on_tick, pids=(), cgroup=Path("simulated"))
    assert len(children) == 3
    assert machine.world.pages_on(FAR) == 0
    assert left_of(session, report) == {}


def test_looks_that_the_rate_limit_holds_do_not_end_it() -> None:
    machine = machine_with(n_pages=(12,))
    n_pages = machine.world.pages_on(FAR)
    session, report = emptied(machine, rate_limit_bytes_per_s=4096, interval_ns=20_000_000)
    assert session.totals.moved_to == {0: n_pages}
    assert session.totals.n_ticks > 30 * n_pages
    assert end_document(session, report)["reason"] == OVER


def test_a_rate_limit_below_a_folio_a_second_ends_it() -> None:
    machine = machine_with(n_pages=(12,))
    session, report = emptied(machine, rate_limit_bytes_per_s=4095)
    said = end_document(session, report)
    assert said["reason"] == "the rate limit is too small for what is left on node 2"
    assert said["evacuation"]["left"] == {"not come to": machine.world.pages_on(FAR)}


def test_the_time_may_be_over_before() -> None:
    machine = machine_with()
    session, report = emptied(machine, for_ns=1)
    said = end_document(session, report)
    assert said["reason"] == "time is over"
    assert said["evacuation"]["left_pages"] == machine.world.pages_on(FAR)
    assert session.totals.exit_code == (4 if machine.world.pages_on(FAR) else 0)


def test_an_end_for_another_reason_is_told_as_that() -> None:
    machine = machine_with()
    request = LiveRequest(
        pids=tuple(machine.world.processes), device="cpu", n_threads=1, evacuate_nid=FAR, for_ns=10**10
    )
    with LiveSession(request, SimulatedSystem(machine)) as session:
        session.run(session.end, lambda *_: None)
        assert session.source.end_reason == "interrupted"
        assert session.totals.left_pages == machine.world.pages_on(FAR) > 30
    machine = machine_with()

    def end_all() -> None:
        for proc in machine.world.running():
            machine.world.end(proc)

    with LiveSession(
        replace(request, pids=tuple(machine.world.processes)), SimulatedSystem(machine)
    ) as session:
        session.run(end_all, lambda *_: None)
        assert (session.totals.end_reason, session.totals.left_pages) == ("process ended", 0)


def test_a_dry_run_says_where_they_would_go() -> None:
    machine = machine_with({0: 10})
    n_pages, before = machine.world.pages_on(FAR), frames(machine)
    session, report = emptied(machine, dry_run=True)
    assert session.totals.planned_to == {0: 10, 1: n_pages - 10}
    assert end_document(session, report)["evacuation"]["left"] == {"ECANCELED: dry run": n_pages}
    assert session.totals.exit_code == 0
    np.testing.assert_array_equal(frames(machine), before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"demote": True}, "leave --demote out"),
        ({"to_nid": 0}, "leave --to out"),
        ({"monitor": "idle"}, "leave --monitor out"),
        ({"command": ("true",), "pids": ()}, "leave -- COMMAND out"),
        ({"evacuate_nid": 7}, "node 7 has no memory here"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    machine = machine_with()
    request = LiveRequest(pids=tuple(machine.world.processes), device="cpu", evacuate_nid=FAR)
    with pytest.raises(InputError, match=said):
        LiveSession(replace(request, **changes), SimulatedSystem(machine))


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_a_few_seeds(first: int) -> None:
    assert [broken for seed in range(first, first + 20) if (broken := run(evacuation(seed)).broken)] == []


def test_the_seeds_see_it_end_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: Evacuation, tick: object) -> None:
        self._source.finish(OVER)

    monkeypatch.setattr(Evacuation, "after", at_once)
    quiet = (replace(evacuation(seed), events=()) for seed in range(100))
    assert any(run(one).broken for one in quiet)
