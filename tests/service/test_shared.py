"""Pages that processes of several rules map, on the simulated kernel: the rules of all must let them move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuscan.monitors.source import DISAGREE, OTHERS, SHARED
from gpuscan.service.load import config_of
from gpuscan.service.session import ServiceSession
from livesim.machine import Machine
from livesim.service import Noted, Script, ScriptedInbox, script
from livesim.system import SimulatedSystem

N_PAGES = 120


def served(*rules, stranger=False):
    """Run a service on two processes that map the same pages; return what moved, and why others did not."""
    machine = Machine(replace(script(4)[0], events=()))
    world = machine.world
    first = world.spawn(N_PAGES, command="database")
    others = [world.spawn(0, command="cache")]
    if stranger:
        others.append(world.spawn(0, is_target=False, command="stranger"))
    for other in others:
        world.share(other, first)
    system = SimulatedSystem(machine)
    settings = {"monitor": "soft-dirty", "cpu": "50%"}
    config = config_of("x", {"service": settings, "rule": [{"cold_after": "1s", **rule} for rule in rules]})

    def open_inbox(stop):
        return ScriptedInbox(machine, system, Script((), (), 4_000), stop)

    with ServiceSession(config, lambda: config, open_inbox, system, open_recorder=Noted) as session:
        session.run(lambda: None, lambda _: None)
    assert world.broken == []
    assert session.totals.moved_pages == session.totals.moved_shared_pages
    return session.totals, session.pipeline.source.skipped


DATABASE, CACHE = {"name": "d", "command": "database"}, {"name": "c", "command": "cache"}


@pytest.mark.parametrize("policies", [("both", "both"), ("promote", "both"), ("both", "promote")])
def test_hot_pages_go_up_where_both_go_up_and_cold_ones_down_where_both_go_down(policies):
    totals, _ = served(*(rule | {"policy": p} for rule, p in zip((DATABASE, CACHE), policies, strict=True)))
    assert totals.moved_pages - totals.demoted_pages > 10
    assert (totals.demoted_pages > 0) == (policies == ("both", "both"))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"policy": "demote"}, DISAGREE),
        ({"shared": "never"}, DISAGREE),
        ({"nodes": [2]}, DISAGREE),
        ({"policy": "off"}, OTHERS),
    ],
)
def test_they_stay_where_the_rule_of_one_says_otherwise(other, reason):
    totals, skipped = served(DATABASE | {"policy": "promote"}, CACHE | {"policy": "promote"} | other)
    assert totals.moved_pages == 0
    assert skipped[reason] > 0


def test_they_go_to_a_node_that_both_rules_name():
    totals, _ = served(DATABASE | {"policy": "promote"}, CACHE | {"policy": "promote", "nodes": [1, 2]})
    assert totals.moved_pages > 10
    assert set(totals.moved_to) == {1}


def test_they_stay_where_a_stranger_maps_them_unless_a_rule_says_always(monkeypatch):
    totals, skipped = served(DATABASE, CACHE, stranger=True)
    assert totals.moved_pages == 0
    assert skipped[OTHERS] > 0
    monkeypatch.setattr("livesim.moves.MovePages._look_who_maps", lambda *_: None)
    always = {"shared": "always", "policy": "promote"}
    totals, _ = served(DATABASE | always, CACHE | always, stranger=True)
    assert totals.moved_pages > 10


def test_where_both_rules_say_never_they_are_counted_as_before():
    totals, skipped = served(*(rule | {"shared": "never"} for rule in (DATABASE, CACHE)))
    assert totals.moved_pages == 0
    assert skipped[SHARED] > 0
