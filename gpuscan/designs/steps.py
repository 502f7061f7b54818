"""Steps that are measured: what a scan does per page, what a mark does, what a neighbour is beside.

The ones that several designs are made of are named in ``gpuscan/compare/steps/``; a design may bring its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class ScanStep:
    """A way to go through many of something.

    Attributes:
        name: what it is called in a comparison's document.
        unit: what it goes through: ``pages``, ``sections``, ``entries``.
        sizes: so many of them make a straight line (the first two) and check it (the third).
        least_ns: returns the least CPU time of going through so many; :func:`timed` makes it of a function.
    """

    name: str
    unit: str
    sizes: tuple[int, int, int]
    least_ns: Callable[[int], float]


class Marking(NamedTuple):
    """Producers that mark pages.

    Attributes:
        mark: makes all marks of a producer, by its number.
        clear: makes all pages what they were before any mark.
    """

    mark: Callable[[int], object]
    clear: Callable[[], object]


@dataclass(frozen=True, slots=True)
class MarkStep:
    """What a producer does for each page.

    Attributes:
        name: what it is called.
        open: makes the memory that marks need, given how many pages there are and int64[n], the pages of each
            producer, and lets it go.
    """

    name: str
    open: Callable[[int, Sequence[NDArray[Any]]], AbstractContextManager[Marking]]


@dataclass(frozen=True, slots=True)
class CoRunner:
    """A scan beside which a neighbour is measured.

    Attributes:
        name: what it is called in a comparison's document.
        open: makes the memory that it needs, given how many pages there are, and lets it go; what it
            yields scans once.
    """

    name: str
    open: Callable[[int], AbstractContextManager[Callable[[], object]]]


def least_time_ns(run: Callable[[], object]) -> float:
    """Return the least CPU time of a call in this thread, in ns, after one that is not timed: others on the
    machine only ever add to it."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.thread_time_ns()
        run()
        times.append(time.thread_time_ns() - started)
    return float(min(times[1:]))


def timed(make: Callable[[int], Callable[[], object]]) -> Callable[[int], float]:
    """Return :attr:`ScanStep.least_ns` of what ``make`` returns for a size, which goes through all of it."""
    return lambda n: least_time_ns(make(n))
