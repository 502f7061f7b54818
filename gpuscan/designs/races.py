"""Marks that come just as a thread is at their page: how the atomics of both interleave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

RaceOrder = Literal["PPCC", "PCPC", "PCCP", "CPPC", "CPCP", "CCPP"]
RACE_ORDERS: tuple[RaceOrder, ...] = ("PPCC", "PCPC", "PCCP", "CPPC", "CPCP", "CCPP")
"""All orders of the two atomics of a producer (P) and of the thread (C) on one page."""


@dataclass(frozen=True, slots=True)
class Race:
    """A producer that marks the page which the thread is just looking at.

    Attributes:
        pfn, nid: its request.
        order: P is its next atomic (exchange of the nid, test-and-set of READY), C the thread's
            (test-and-clear of READY, exchange of the nid with NUMA_NO_NODE). Where the thread finds
            READY clear it goes on, and its second C is left out.
    """

    pfn: int
    nid: int
    order: RaceOrder


class Atomics(NamedTuple):
    """What the distances between two atomics are drawn from, exponentially.

    Attributes:
        apart_ns: their mean.
        random: the generator.
    """

    apart_ns: float
    random: np.random.Generator


def drawn(atomics: Atomics, n_marks: int) -> NDArray[np.float64]:
    """Return float64[2, n]: how far a producer's two atomics are apart, and the thread's on the same page."""
    found: NDArray[np.float64] = atomics.random.exponential(atomics.apart_ns, (2, n_marks))
    return found


def interleaved(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    late_ns: NDArray[np.float64],
    apart_ns: NDArray[np.float64],
) -> dict[int, Race]:
    """Return the marks that race with the walk that comes by their pages, by their place among these.

    A mark whose stretch overlaps the thread's is a race, of the order that the four times have; what the
    drawn times say is all there is to it.

    Args:
        pfns, nids: of the marks.
        late_ns: when each begins, after the thread begins with the page; below 0: before.
        apart_ns: see :func:`drawn`.
    """
    producer_ns, thread_ns = apart_ns
    overlap = (late_ns < thread_ns) & (late_ns + producer_ns > 0)
    races: dict[int, Race] = {}
    seen: set[int] = set()
    for i in np.flatnonzero(overlap).tolist():
        pfn = int(pfns[i])
        if pfn not in seen:  # one producer at a time; a second one comes before
            seen.add(pfn)
            times = ((late_ns[i], "P"), (late_ns[i] + producer_ns[i], "P"), (0.0, "C"), (thread_ns[i], "C"))
            order = "".join(who for _, who in sorted(times))
            races[i] = Race(pfn, int(nids[i]), next(known for known in RACE_ORDERS if known == order))
    return races
