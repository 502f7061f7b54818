"""Who moves pages in the guest: gpuscan, and what the kernel has of its own; switched on, and off again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import damon_scheme, kernel, kmigrated
from .processes import Live

NEAR = 0
DAMON_MIN_ACCESSES = 10
"""Of 20 samples. With 1 or 5 DAMON moved nearly everything, with 20 it left a third of the hot set behind."""


@dataclass
class Spent:
    """What a method takes.

    Attributes:
        cpu_s: ends it if need be and returns the CPU time of whoever moves the pages; None where it is in the
            process's own.
        enabled_s: when it was switched on (time.monotonic()).
        startup_s: how long it took before that.
    """

    cpu_s: Callable[[], float | None]
    enabled_s: float
    startup_s: float = 0.0


Method = Callable[[list[str], Path], AbstractContextManager[Spent]]
"""Called with the options that name the processes whose pages shall move, and a folder for files."""


def of_pids(*pids: int) -> list[str]:
    """Return the options of ``gpuscan live`` that name processes."""
    return [word for pid in pids for word in ("--pid", str(pid))]


@contextmanager
def nothing(processes: list[str], folder: Path) -> Iterator[Spent]:
    """Leave all as it is."""
    yield Spent(lambda: 0.0, time.monotonic())


def numa_balancing(mode: int) -> Method:
    """Return NUMA balancing between nodes with CPUs (mode 1), or between memory tiers with demotion (2).

    Where the kernel has kmigrated that moves the pages, and NUMA balancing only marks them.
    """

    @contextmanager
    def balancing(processes: list[str], folder: Path) -> Iterator[Spent]:
        kernel.set_demotion(mode == 2)
        before_s = kmigrated.cpu_s()

        def cpu_s() -> float | None:
            return sum(kmigrated.cpu_s().values()) - sum(before_s.values()) if before_s else None

        enabled_s = time.monotonic()
        kernel.set_numa_balancing(mode)
        try:
            yield Spent(cpu_s, enabled_s)
        finally:
            kernel.settle()

    return balancing


@contextmanager
def damon(processes: list[str], folder: Path) -> Iterator[Spent]:
    """DAMON's own scheme on the physical memory of the nodes without CPUs."""
    pid = damon_scheme.promote_hot((2, 3), NEAR, min_accesses=DAMON_MIN_ACCESSES)
    try:
        yield Spent(lambda: sum(kernel.cpu_s(pid)), time.monotonic())
    finally:
        damon_scheme.switch_off()


@contextmanager
def gpuscan(processes: list[str], folder: Path) -> Iterator[Spent]:
    """``gpuscan live``; time counts from when its monitor is on, and starting is told apart."""
    with Live(folder, [], *processes) as live:
        yield Spent(lambda: sum(live.interrupt()["cpu_s"].values()), live.started_s, live.start["startup_s"])


METHODS: dict[str, Method] = {
    "nothing": nothing,
    "numa-balancing-1": numa_balancing(1),
    "numa-balancing-2": numa_balancing(2),
    "damon-migrate-hot": damon,
    "gpuscan": gpuscan,
}


def called(method: str) -> str:
    """Return what a method is called in tables: with kmigrated it is no more the fault that moves a page."""
    return method.replace("numa-balancing", "kmigrated") if kmigrated.threads() else method
