"""A node is emptied of what some processes have there: where it goes, when that is over, and what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.live import _print
from gpuscan.cli.output import Output
from gpuscan.engine.tick import RunReport
from gpuscan.linux.numa import Room
from gpuscan.live.document import end_document
from gpuscan.live.evacuation import Evacuation
from gpuscan.live.request import LiveRequest
from gpuscan.live.session import LiveSession
from livesim.machine import Machine
from livesim.run import run
from livesim.scenario import evacuation, scenario
from livesim.system import SimulatedSystem
from livesim.world import EXCLUSIVE, FAR, PFN_BITS, SECTION

QUIET = replace(scenario(0), selection="pids", n_pages=(60, 40), events=(), demote=False, evacuate=FAR)
OVER = "nothing that can move is left on node 2"
HIGH = 3
"""Free pages that a node keeps: the high watermark of its zone."""


def machine_with(room: dict[int, int] | None = None, **changes: Any) -> Machine:
    """Return a machine on which nodes have so much room and no more."""
    machine = Machine(replace(QUIET, **changes))
    system = SimulatedSystem(machine)
    for nid, n_pages in (room or {}).items():
        machine.world.pressure[nid] += Room(system).pages(nid) - n_pages
        assert Room(system).pages(nid) == n_pages
    return machine


def emptied(machine: Machine, **changes: Any) -> tuple[LiveSession, RunReport]:
    """Empty node 2 of what the processes have there; return the session and its report."""
    request = LiveRequest(
        pids=tuple(machine.world.processes), device="cpu", n_threads=1, evacuate_nid=FAR, **changes
    )
    with LiveSession(request, SimulatedSystem(machine)) as session:
        report = session.run(lambda: None, lambda *_: None)
    return session, report


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
    assert said["reason"] == OVER
    assert session.totals.exit_code == 4
    _print(session, report, Output(json_mode=False))
    assert f"{left:,} pages: no node has room" in capsys.readouterr().out


def test_pages_that_others_map_are_left() -> None:
    machine = machine_with()
    for proc in machine.world.running():
        shared = np.flatnonzero((proc.words & PFN_BITS) // np.uint64(SECTION) == FAR)[:4]
        proc.words[shared] &= ~EXCLUSIVE
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
    assert said["reason"] == "what is left on node 2 does not move"
    assert said["evacuation"]["left"] == {"EBUSY: busy, could not be isolated": n_pages}
    assert n_pages > 30
    assert session.totals.exit_code == 4


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
