"""The CUDA kernels in every order of their warps' steps, and races planted in them."""

from __future__ import annotations

import re

import pytest

from cuda_orders import BOTH, SYSTEMS, TWICE, Requests, System, explored_module
from cuda_races import RACES, explore_planted, planted
from emulator.explorer import Exploration
from gpuscan.records.formats import FORMATS

RFC = FORMATS["rfc"]
LARGE = {
    "requests of pages that share words",
    "dense scan",
    "indexed scan",
    "dense scan without room",
    "indexed scan without room",
    "dense scan within a quota",
    "indexed scan within a quota",
    "two scans",
    "two dense scans",
}
"""Over half a second each, on one core."""
ONE_RESULT = {
    "requests of pages that share words",
    "requests on two nodes",
    "two folios in one slot",
    "dense scan",
    "indexed scan",
}
"""Whatever the order: nothing of these is anybody else's to change."""


def assert_sound(explored: Exploration) -> None:
    assert explored.is_exhausted
    assert explored.n_executions == explored.n_traces, "an execution was completed twice"
    assert not explored.wrong, explored.wrong[0].told()


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow if each in LARGE else ()) for each in SYSTEMS]
)
def test_every_order_ends_well(name: str) -> None:
    system = SYSTEMS[name]
    explored = system.explore(explored_module(), RFC)
    assert_sound(explored)
    results = {system.result({**system.arrays(RFC), **end.arrays}) for end in explored.ends}
    assert (len(results) > 1) == (name not in ONE_RESULT), "the order shows in nothing"


IN_ROWS = [name for name in SYSTEMS if "dense" in name and "quota" not in name]


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        pytest.param(name, each, marks=pytest.mark.slow if each != "rfc" or name in LARGE else ())
        for name in IN_ROWS
        for each in ("rfc", "pghot-compact")
    ],
)
def test_every_order_of_claims_in_rows_ends_well(name: str, format_name: str) -> None:
    module = explored_module(format_name, in_rows=True)
    assert_sound(SYSTEMS[name].explore(module, FORMATS[format_name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in SYSTEMS if each not in LARGE])
@pytest.mark.parametrize(("format_name", "seed"), [("pghot-compact", 0), ("pghot", 0), ("rfc", 1)])
def test_it_does_in_other_formats_and_orders_of_lanes(name: str, format_name: str, seed: int) -> None:
    assert_sound(SYSTEMS[name].explore(explored_module(format_name), FORMATS[format_name], seed=seed))


@pytest.mark.parametrize("items", [TWICE, BOTH])
def test_every_order_of_requests_by_lanes_ends_well(items: tuple[tuple[int, int], ...]) -> None:
    system = System((Requests(items, in_lanes=True),), like_serial=False)
    assert_sound(system.explore(explored_module(), RFC, lanes_apart=True))


LATE = {
    "requests of two pages": System((Requests(BOTH),)),
    "dense scan against a request": RACES["bits_after_records"].system,
    "indexed scan against a request": RACES["bits_after_claims"].system,
    "claims of two blocks": RACES["block_done_unfenced"].system,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LATE)
def test_every_order_ends_well_where_updates_may_be_late(name: str) -> None:
    assert_sound(LATE[name].explore(explored_module(), RFC, stores_may_be_late=True))


@pytest.mark.parametrize("name", RACES)
def test_a_planted_race_is_found(name: str) -> None:
    assert_sound(explore_planted(name, "sound"))
    explored = explore_planted(name, name)
    assert explored.is_exhausted
    assert explored.wrong
    shortest = explored.wrong[0]
    assert re.search(RACES[name].finds, str(shortest.complaint)), shortest.told()
    assert shortest.n_switches > 0, "nobody raced"
    assert re.search(r"\.cuh?:\d+", shortest.schedule[0].place)


def test_a_schedule_is_a_shortest_one_and_the_same_again() -> None:
    """By brute force: of all orders of the steps that end like that none has fewer switches."""
    name = "ready_bit_stored"
    explored = explore_planted(name, name)
    brute = explore_planted(name, name, orders="all")
    assert brute.is_exhausted
    assert brute.n_executions > explored.n_executions == brute.n_traces
    assert brute.wrong[0].n_switches == explored.wrong[0].n_switches
    assert [end.told() for end in explored.wrong] == [end.told() for end in explore_planted(name, name).wrong]


def test_a_fence_that_is_left_out_shows_only_where_updates_may_be_late() -> None:
    race = RACES["block_bit_unfenced"]
    with planted("block_bit_unfenced") as module:
        assert_sound(race.system.explore(module, RFC))
