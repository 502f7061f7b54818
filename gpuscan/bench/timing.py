"""Many ways to the same answer, run in turn: a slow moment of the machine then hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from gpuscan.base.program import PROGRAM

State = Literal["warm", "cold"]


class Kind(StrEnum):
    """A ceiling of the machine, one of ours, or a peer."""

    FLOOR = "floor"
    OURS = PROGRAM
    PEER = "peer"


@dataclass(slots=True)
class Contestant:
    """One way to the answer.

    Attributes:
        name: as shown, unique together with ``state``.
        kind: see there.
        state: ``cold`` = the caches are flushed before every run; ``warm`` = it was run
            untimed immediately before.
        measure: does it once and returns the nanoseconds that count.
        facts: what else the report says about it; ``measure`` may add to it.
    """

    name: str
    kind: Kind
    state: State
    measure: Callable[[], int]
    facts: dict[str, Any] = field(default_factory=dict)


def stopwatch(run: Callable[[], Any]) -> Callable[[], int]:
    """Return a ``measure`` that times one call of ``run`` alone; its result is freed afterwards."""

    def measure() -> int:
        started = time.perf_counter_ns()
        result = run()
        elapsed_ns = time.perf_counter_ns() - started
        del result
        return elapsed_ns

    return measure


def race(
    contestants: Sequence[Contestant],
    rounds: int,
    flush: Callable[[], None],
    on_round: Callable[[], None],
) -> list[dict[str, Any]]:
    """Run every contestant ``rounds`` times, in turn and each round beginning with another one.

    Args:
        contestants: warmed up already.
        rounds: runs of each.
        flush: empties the caches.
        on_round: called after each round.

    Returns:
        One row per contestant: name, kind, state, ``median_ns``, ``p10_ns``, ``p90_ns``,
        ``min_ns``, all ``runs_ns`` in order, and its facts.
    """
    runs_ns: list[list[int]] = [[] for _ in contestants]
    for turn in range(rounds):
        with _no_collection():
            for offset in range(len(contestants)):
                index = (turn + offset) % len(contestants)
                contestant = contestants[index]
                if contestant.state == "cold":
                    flush()
                else:  # whoever ran before has left the caches full of something else
                    contestant.measure()
                runs_ns[index].append(contestant.measure())
        on_round()
    return [_row(contestant, runs) for contestant, runs in zip(contestants, runs_ns, strict=True)]


def _row(contestant: Contestant, runs_ns: list[int]) -> dict[str, Any]:
    p10, middle, p90 = np.percentile(runs_ns, [10, 50, 90]).tolist()
    return {
        "name": contestant.name,
        "kind": contestant.kind,
        "state": contestant.state,
        "median_ns": middle,
        "p10_ns": p10,
        "p90_ns": p90,
        "min_ns": min(runs_ns),
        "runs_ns": runs_ns,
        **contestant.facts,
    }


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()  # so that a round does not pay for what the one before left behind
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
