"""Marks that come while a thread walks: which it still meets, and which come just as it is at their page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import ZoneSpan

if TYPE_CHECKING:
    from gpuscan.designs.model import Model

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


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """What becomes of the marks of a walk's time.

    Attributes:
        ahead: bool[n], made before the thread came by: it finds them.
        races: those whose atomics and the thread's overlap, by their place among the marks.
    """

    ahead: NDArray[np.bool_]
    races: dict[int, Race]


def visit_ns(
    pfns: NDArray[np.int64], model: Model, zones: Sequence[ZoneSpan], pfn_ns: float
) -> NDArray[np.float64]:
    """Return when a walk comes by each page, after its start; NaN where it never does.

    The migrations on the way are left out: how long they take is known only when they are done.
    """
    at = np.full(len(pfns), np.nan)
    before = 0
    for zone in zones:
        inside = (pfns >= zone.start_pfn) & (pfns < zone.end_pfn) & np.isnan(at)
        at[inside] = (before + model.n_before(zone, pfns[inside])) * pfn_ns
        before += model.n_examined(zone)
    return at


def meet(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    late_ns: NDArray[np.float64],
    apart_ns: float,
    random: np.random.Generator,
) -> Meeting:
    """Say how marks interleave with the walk that comes by their pages.

    A producer's two atomics are some time apart, and so are the thread's two on the same page: both are
    drawn, exponentially. A mark whose stretch overlaps the thread's is a race, of the order that the four
    times have; what the drawn times say is all there is to it.

    Args:
        pfns, nids: of the marks.
        late_ns: when each begins, after the thread begins with the page; below 0: before; NaN: it never does.
        apart_ns: the mean of both distances.
        random: where they are drawn from.
    """
    producer_ns, thread_ns = random.exponential(apart_ns, (2, len(pfns)))
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
    ahead = late_ns < 0
    ahead[list(races)] = False
    return Meeting(ahead, races)
