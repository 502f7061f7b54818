"""Measure the points of a step in rounds: each round goes through all of them, in an order of its own.

So what else the machine does meets all sizes alike, and how slow a round was as a whole is taken out of it
before medians are. Rounds are added until every median is known to :data:`GOAL`, or the time is over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.memory import available_bytes
from gpuscan.compare.cost_fit import Measured, spread_of
from gpuscan.designs.steps import Layout, ScanStep

GOAL = 0.02
"""Spread of a median (:class:`gpuscan.compare.cost_fit.Measured`) up to which no more rounds are needed."""
LIMIT_S = 10.0
"""Time of all rounds of a step; what they need in memory is made before."""
LEAST_ROUNDS = 9
"""Also where that takes longer."""
_POLISHES = 5
MEMORY_SHARE = 4
"""A step takes this part of the memory that is available, at most."""


def measure(step: ScanStep) -> tuple[Measured, ...]:
    """Return all points of a step, none where there is too little memory for them."""
    return measured_at(step, step.points(available_bytes() // MEMORY_SHARE))


def measured_at(step: ScanStep, layouts: Sequence[Layout]) -> tuple[Measured, ...]:
    """Return what a step takes at these, all of them in the same rounds."""
    if not layouts:
        return ()
    places, rounds = range(len(layouts)), list[list[float]]()
    order = np.random.default_rng(len(layouts))
    with step.open(layouts) as once:
        for index in places:  # compiles, and writes memory for the first time
            once(index)
        started = time.monotonic()
        while len(rounds) < LEAST_ROUNDS or time.monotonic() - started < LIMIT_S:
            times_ns = [0.0] * len(layouts)
            for index in order.permutation(places).tolist():
                times_ns[index] = once(index)
            rounds.append(times_ns)
            if len(rounds) >= LEAST_ROUNDS and max(map(spread_of, without_pace(np.array(rounds)).T)) <= GOAL:
                break
    found = without_pace(np.array(rounds)).T
    return tuple(
        Measured(layout.size, float(np.median(times_ns)), spread_of(times_ns), len(rounds))
        for layout, times_ns in zip(layouts, found, strict=True)
    )


def without_pace(times_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return float64[rounds, points] with the pace of each round taken out: by what share its times lie
    above the medians of their points, in the middle.

    A neighbour that fills the memory's queues slows all points of a round. Medians stay about what they were.
    """
    pace = np.ones((len(times_ns), 1))
    for _ in range(_POLISHES):
        pace = np.median(times_ns / np.median(times_ns / pace, axis=0), axis=1, keepdims=True)
        pace /= np.median(pace)
    return np.asarray(times_ns / pace)
