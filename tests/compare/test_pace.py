"""How long the rest of a comparison takes, on a simulated clock."""

from __future__ import annotations

import pytest

from gpuscan.compare.pace import Pace, Part
from gpuscan.compare.parts import list_is_made, measuring_parts, parts_of
from gpuscan.compare.settings import Settings
from gpuscan.run.job import machine_of, read_workload
from gpuscan.run.request import RunRequest


class Clock:
    """Seconds that pass when they are told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def left_after(share: float, slower: dict[str, float], n_models: int = 7) -> tuple[float, float]:
    """Return what a pace says is left after a share of a run, and what is: parts are ``slower`` by kind."""
    clock = Clock()
    parts = [Part("recording", "recording", 10.0), Part("listing", "listing", 30.0)]
    models = [
        Part(f"{loop} {number}", loop, {"closed": 80.0, "open": 60.0}[loop], beside=True)
        for number in range(n_models)
        for loop in ("closed", "open")
    ]
    pace = Pace([*parts, *models], 2, clock)
    events: list[tuple[float, str, float]] = []
    at_s = 0.0
    for part in parts:
        took_s = part.usual_s * slower.get(part.kind, 1.0)
        events += [(at_s + took_s * step / 50, part.name, 0.02 if step else 0.0) for step in range(51)]
        at_s += took_s
    free = [at_s, at_s]
    for part in models:
        worker = free.index(min(free))
        took_s = part.usual_s * slower.get(part.kind, 1.0)
        events += [
            (free[worker] + took_s * step / 50, part.name, 0.02 if step else 0.0) for step in range(51)
        ]
        free[worker] += took_s
    end_s = max(free)
    for when_s, name, done in sorted(events):
        clock.now_s = when_s
        if when_s > share * end_s:
            break
        pace.advance(name, done)
    return pace.left_s, end_s - clock.now_s


@pytest.mark.parametrize(
    "slower", [{}, {"closed": 5.0, "open": 5.0}, {"closed": 4.0, "open": 1.5}, {"listing": 3.0}]
)
def test_after_a_tenth_the_time_left_is_right_within_a_factor_of_two(slower: dict[str, float]) -> None:
    for share in (0.1, 0.2, 0.5, 0.8):
        said, true = left_after(share, slower)
        assert true / 2 < said < true * 2, share


def test_parts_that_only_tell_of_their_end_began_when_the_one_before_ended() -> None:
    clock = Clock()
    pace = Pace([Part(f"step {n}", "measuring", 1.5) for n in range(4)], 1, clock)
    clock.now_s = 6.0
    pace.advance("step 0", 1)
    assert pace.left_s == pytest.approx(18.0)
    assert pace.share == pytest.approx(0.25)
    clock.now_s = 12.0
    pace.advance("step 1", 1)
    pace.advance("step 1", 1)  # told twice: counted once
    assert pace.left_s == pytest.approx(12.0)
    pace.resize("measuring", 3.0)
    assert pace.left_s == pytest.approx(24.0)


def test_a_kind_that_has_not_begun_fares_as_the_one_that_it_is_like() -> None:
    clock = Clock()
    parts = [
        Part("steps", "measuring", 10.0),
        Part("list", "listing", 10.0),
        Part("closed", "closed", 100.0, like="listing"),
        Part("other", "other", 50.0),
    ]
    pace = Pace(parts, 1, clock)
    clock.now_s = 40.0
    pace.advance("list", 1)  # four times as long as usual
    clock.now_s = 50.0
    pace.advance("steps", 1)  # as usual, since it is bounded by time
    others = (4.0 * 1.0 * 1.0) ** (1 / 3)
    assert pace.left_s == pytest.approx(4 * 100.0 + others * 50.0)
    pace.advance("closed", 0)
    clock.now_s = 100.0
    pace.advance("closed", 0.5)  # its own kind tells from then on
    assert pace.left_s < 0.5 * (50.0 + 50.0) + 2 * 50.0


def large(memory_gib: int) -> Settings:
    """Return cxl-promote on a machine of so much memory, all of its accesses."""
    _, _, loaded = read_workload(RunRequest(workload="cxl-promote", memory=f"{memory_gib}GiB"))
    topology = machine_of(loaded).topology
    return Settings(
        topology, loaded.machine_spec(topology), loaded.engine_policy(), loaded.ticks * loaded.tick, 2
    )


@pytest.mark.parametrize("memory_gib", [256, 1024])
@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_of_a_large_machine_the_time_left_is_right_after_a_tenth(memory_gib: int, slower: float) -> None:
    # Seconds that were measured at 256 GiB; loops grow with the memory, measuring does not.
    times = memory_gib / 256
    clock, n_requests = Clock(), 3_817_000 * times
    chosen = large(memory_gib)
    models = ["rfc-v1", "section-flag", "percpu-list"]
    parts = [*measuring_parts(["rfc-v1", "gpuscan"]), *parts_of(models, chosen, None)]
    took = {
        "recording accesses": 7.0 * times,
        "listing requests": 8.1 * times,
        "rfc-v1, closed loop": 13.3 * times,
        "rfc-v1, open loop": 10.2 * times,
        "section-flag, closed loop": 22.2 * times,
        "section-flag, open loop": 20.9 * times,
        "percpu-list, closed loop": 17.0 * times,
        "percpu-list, open loop": 9.0 * times,
    }
    pace = Pace(parts, 1, clock)
    # Measuring goes on for as long as it may, whatever else runs there.
    order = [part for part in pace.parts.values() if part.kind != "measuring"]
    steps = [(part, took[part.name] * slower) for part in order[:2]]
    steps += [(part, 9.0) for part in pace.parts.values() if part.kind == "measuring"]
    steps += [(part, took[part.name] * slower) for part in order[2:]]
    end_s = sum(seconds for _, seconds in steps)
    said: list[tuple[float, float]] = []
    for part, seconds in steps:
        for step in range(51):
            pace.advance(part.name, 0.02 if step else 0.0)
            clock.now_s += seconds / 50 if step < 50 else 0.0
            said.append((clock.now_s, pace.left_s))
        if part.kind == "listing requests":
            list_is_made(pace, chosen, int(n_requests))
    for now_s, left_s in said:
        if 0.1 * end_s <= now_s <= 0.9 * end_s:
            assert (end_s - now_s) / 2 < left_s < (end_s - now_s) * 2, now_s


def test_a_kind_that_has_not_begun_fares_as_the_others_do() -> None:
    clock = Clock()
    pace = Pace([Part("step", "measuring", 10.0), Part("closed", "closed", 100.0)], 1, clock)
    assert pace.left_s == pytest.approx(110.0)
    clock.now_s = 90.0
    pace.advance("step", 1)
    # Nine times as long as usual, and what is usual counts as much.
    assert pace.left_s == pytest.approx(300.0)
