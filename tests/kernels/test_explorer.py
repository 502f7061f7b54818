"""The explorer against brute force: it misses no end, and completes no execution twice."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator import loader
from emulator.explorer import Exploration, ExploredModule, Launch
from emulator.presence import need

SOURCE = (Path(__file__).parents[1] / "emulator" / "orders.cu").read_text()
WHAT = (
    *("STOP", "LOAD", "STORE", "PLAIN_LOAD", "PLAIN_STORE", "ADD", "ADD_UNSEEN", "OR_UNSEEN", "AND_SEEN"),
    *("EXCHANGE", "CAS", "MAX_UNSEEN", "BARRIER", "FENCE"),
)
MOST = 4
MOST_BRUTE = 20_000
Op = tuple[str, int, int]


@cache
def module() -> ExploredModule:
    need("explored")
    return ExploredModule(SOURCE, name="orders.cu")


def interpret(programs: list[list[Op]], which: ExploredModule | None = None, **options: Any) -> Exploration:
    """Explore programs, one a warp, in blocks of two warps."""
    coded = np.zeros((-(-len(programs) // 2) * 2, MOST, 3), dtype=np.int32)
    for warp, program in enumerate(programs):
        for number, (what, where, operand) in enumerate(program):
            coded[warp, number] = WHAT.index(what), where, operand
    arrays = {
        "programs": coded.ravel(),
        "memory": np.zeros(4, dtype=np.uint32),
        "seen": np.full(coded.shape[0] * MOST, 77, dtype=np.uint32),
    }
    args = ("programs", np.int32(MOST), "memory", "seen")
    return (which or module()).explore(
        arrays, [Launch("interpret", coded.shape[0] // 2, 64, args)], lambda arrays: "any", **options
    )


def ends_of(explored: Exploration) -> dict[tuple[Any, ...], int]:
    """Return how all ends with the fewest switches to each."""
    return {
        (*(name for name in end.arrays["memory"]), *end.arrays["seen"], end.complaint): end.n_switches
        for end in explored.ends
    }


def assert_as_brute_force(
    programs: list[list[Op]], which: ExploredModule | None = None, **options: Any
) -> None:
    reduced = interpret(programs, which, **options)
    brute = interpret(programs, which, orders="all", **options)
    assert reduced.is_exhausted
    assert brute.is_exhausted
    assert ends_of(reduced) == ends_of(brute)
    assert reduced.n_executions == reduced.n_traces == brute.n_traces
    every_access = interpret(programs, which, orders="accesses", most_executions=MOST_BRUTE, **options)
    if every_access.is_exhausted:
        assert ends_of(reduced).keys() == ends_of(every_access).keys()
        assert reduced.n_traces == every_access.n_traces


OPS = st.tuples(st.sampled_from(WHAT[1:12]), st.sampled_from([0, 0, 0, 1, 4]), st.integers(0, 3))
PROGRAMS = st.lists(st.lists(OPS, max_size=3), min_size=3, max_size=3)


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(PROGRAMS)
def test_random_programs_end_as_by_brute_force(programs: list[list[Op]]) -> None:
    assert_as_brute_force(programs)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(OPS, max_size=2), min_size=4, max_size=4) | PROGRAMS, st.booleans())
def test_many_random_programs_do(programs: list[list[Op]], late: bool) -> None:
    fences = [program[:2] + [("FENCE", 0, 0)] * late + program[2:] for program in programs]
    assert_as_brute_force(fences, stores_may_be_late=late)


# Programs that show each fault of the explorer below.
LOST_UPDATE: list[list[Op]] = [[("LOAD", 0, 0), ("STORE", 0, 1)], [("LOAD", 0, 0), ("STORE", 0, 2)]]
FAR_RACE: list[list[Op]] = [
    [("STORE", 0, 1), ("STORE", 1, 1)],
    [("STORE", 0, 2), ("LOAD", 1, 0)],
    [("LOAD", 0, 0), ("STORE", 1, 3)],
]
SEEN_UPDATES: list[list[Op]] = [[("ADD", 0, 1)], [("ADD", 0, 1)], [("ADD_UNSEEN", 0, 1)]]
BEHIND_BARRIERS: list[list[Op]] = [
    [("STORE", 4, 1), ("BARRIER", 0, 0), ("LOAD", 4, 0)],
    [("STORE", 4, 2), ("BARRIER", 0, 0), ("STORE", 0, 2)],
    [("LOAD", 0, 0)],
]
SHOWN = [LOST_UPDATE, FAR_RACE, SEEN_UPDATES, BEHIND_BARRIERS]


@pytest.mark.parametrize("programs", SHOWN)
def test_a_program_ends_as_by_brute_force(programs: list[list[Op]]) -> None:
    assert_as_brute_force(programs)


FAULTS = {
    "races are not reversed": ("        for (unsigned earlier : races) reverse(earlier);\n", ""),
    "who sleeps never wakes": ("        if (event.cls == kWrites) return false;\n", "        return true;\n"),
    "nobody sleeps": ("node.sleep[i] = sleeps_on(actors[i], event);", "node.sleep[i] = false;"),
    "updates commute where they are looked at": (
        "if (access.kind >= kAdd && !looked.count(access.site))",
        "if (access.kind >= kAdd)",
    ),
    "what others race for is no step": (
        "is_raced_for = !is_before && are_dependent(seen.cls, cls)",
        "is_raced_for = false",
    ),
    "barriers order nothing": ("            join(&actors[each].clock, all);\n", ""),
    "a schedule is as it came": (
        "end.is_wrong) shorten(&end);",
        "end.is_wrong) keep_as_it_was(&end);",
    ),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, marks=() if each == "races are not reversed" else pytest.mark.slow)
        for each in FAULTS
    ],
)
def test_a_broken_explorer_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("explored")
    line, instead = FAULTS[fault]
    headers = Path(shutil.copytree(loader.HEADERS, tmp_path / "emulator"))
    explorer = headers / "explorer.cpp"
    text = explorer.read_text()
    if text.count(line) != 1:  # no assertion: a check that fails is what is waited for below
        raise ValueError(f"{line!r} stands {text.count(line)} times in explorer.cpp, not once")
    explorer.write_text(text.replace(line, instead))
    monkeypatch.setattr(loader, "HEADERS", headers)
    broken = ExploredModule(SOURCE, name="orders.cu")

    def check() -> None:
        for programs in SHOWN:
            assert_as_brute_force(programs, broken)

    with pytest.raises(AssertionError):
        check()


# Executions whose number is known


def counted(kernel: str, n: int, arrays: dict[str, Any], *, lanes_apart: bool = False) -> Exploration:
    args = (np.int32(1 if lanes_apart else 32), np.int32(n), *arrays)
    kernel_args = [Launch(kernel, 1 if lanes_apart else 2, 32 if lanes_apart else 64, args)]
    explored = module().explore(arrays, kernel_args, lanes_apart=lanes_apart)
    assert explored.is_exhausted
    assert explored.n_executions == explored.n_traces
    return explored


def words(n: int) -> Any:
    return np.zeros(n, dtype=np.uint32)


@pytest.mark.parametrize(("n", "lanes_apart"), [(1, False), (3, False), (8, True)])
def test_each_reader_sees_a_word_before_or_after_it_is_written(n: int, lanes_apart: bool) -> None:
    explored = counted("readers", n, {"x": words(1), "seen": words(n + 1)}, lanes_apart=lanes_apart)
    assert explored.n_executions == len(explored.ends) == 2**n


def test_last_zero_has_as_many_executions_as_its_authors_found() -> None:
    """Abdulla et al., POPL 2014, have 64 for five, with the algorithm that completes each trace once."""
    explored = counted("last_zero", 5, {"items": words(6), "found": words(1)}, lanes_apart=True)
    assert explored.n_executions == 64


@pytest.mark.parametrize(("n", "n_executions"), [(4, 1), (11, 1), (12, 8), (13, 64)])
def test_the_indexer_has_as_many_executions_as_collisions_allow(n: int, n_executions: int) -> None:
    """Up to eleven never collide (Flanagan and Godefroid, POPL 2005); the twelfth does, three times."""
    explored = counted("indexer", n, {"table": words(128)}, lanes_apart=n > 4)
    assert explored.n_executions == n_executions


# What is watched


def test_blocks_have_shared_memory_of_their_own() -> None:
    note: list[Op] = [("ADD_UNSEEN", 4, 1), ("BARRIER", 0, 0), ("LOAD", 4, 0)]
    explored = interpret([note] * 4)
    assert explored.n_executions == 1, "updates that nobody looks at come in either order"
    assert explored.ends[0].arrays["seen"].reshape(4, MOST)[:, 2].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fenced", [False, True])
def test_a_store_may_be_late_up_to_a_fence(late: bool, fenced: bool) -> None:
    fence: list[Op] = [("FENCE", 0, 0)] * fenced
    writer: list[Op] = [("STORE", 0, 1), *fence, ("STORE", 1, 1)]
    reader: list[Op] = [("LOAD", 1, 0), ("LOAD", 0, 0)]
    explored = interpret([writer, reader], stores_may_be_late=late)
    seen = {tuple(end.arrays["seen"].reshape(-1, MOST)[1, :2].tolist()) for end in explored.ends}
    assert {(0, 0), (1, 1), (0, 1)} <= seen
    assert ((1, 0) in seen) == (late and not fenced)
    assert_as_brute_force([writer, reader], stores_may_be_late=late)


def test_a_thread_sees_its_own_late_stores() -> None:
    explored = interpret([[("STORE", 0, 1), ("LOAD", 0, 0)], [("STORE", 0, 2)]], stores_may_be_late=True)
    assert {int(end.arrays["seen"][1]) for end in explored.ends} == {1, 2}


def test_waiting_for_who_has_ended_is_an_end_with_its_place() -> None:
    source = """
    extern "C" __global__ void meet(unsigned* x) {
      if (threadIdx.x == 0) atomicExch(x, 1u);
      if (threadIdx.x == 32 && __ldcg(x)) return;
      __syncthreads();
    }"""
    need("explored")
    explored = ExploredModule(source, name="meet.cu").explore(
        {"x": words(1)}, [Launch("meet", 1, 64, ("x",))]
    )
    assert len(explored.ends) == 2
    (wrong,) = explored.wrong
    assert "meet.cu:5: __syncthreads diverges" in str(wrong.complaint)
    assert [step.what for step in wrong.schedule] == ["exchange", "load"]
    assert wrong.schedule[0].place == "meet.cu:3"
    assert wrong.told().splitlines()[0].split() == [
        "meet",
        "0.0",
        "lane",
        "0",
        "meet.cu:3",
        "exchange",
        "x[0]",
        "0x0",
        "->",
        "0x1",
    ]
