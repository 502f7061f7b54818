"""Who brings a process's hot pages near, how fast, and what else it moves: ``python -m tests.guest.peers``.

For the guest: it switches NUMA balancing and DAMON on and off. Prints one JSON object a line for each run;
:mod:`tests.guest.peers_table` makes tables of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import damon_scheme, kernel
from .observed import observe
from .processes import Live, Workload

NEAR = 0
PATTERNS = ("fixed", "shifting", "uniform")
SHARES_AT_S = (2, 5, 10, 30)
ENOUGH = 0.95
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


@contextmanager
def nothing(workload: Workload, folder: Path) -> Iterator[Spent]:
    """Leave all as it is."""
    yield Spent(lambda: 0.0, time.monotonic())


@contextmanager
def numa_balancing(workload: Workload, folder: Path) -> Iterator[Spent]:
    """NUMA balancing between memory tiers, demotion on."""
    kernel.set_demotion(True)
    enabled_s = time.monotonic()
    kernel.set_numa_balancing(2)
    try:
        yield Spent(lambda: None, enabled_s)
    finally:
        kernel.settle()


@contextmanager
def damon(workload: Workload, folder: Path) -> Iterator[Spent]:
    """DAMON's own scheme on the physical memory of the nodes without CPUs."""
    pid = damon_scheme.promote_hot((2, 3), NEAR, min_accesses=DAMON_MIN_ACCESSES)
    try:
        yield Spent(lambda: sum(kernel.cpu_s(pid)), time.monotonic())
    finally:
        damon_scheme.switch_off()


@contextmanager
def gpuscan(workload: Workload, folder: Path) -> Iterator[Spent]:
    """``gpuscan live``; time counts from when its monitor is on, and starting is told apart."""
    with Live(folder, [workload.pid]) as live:
        yield Spent(lambda: sum(live.interrupt()["cpu_s"].values()), live.started_s, live.start["startup_s"])


METHODS: dict[str, Callable[[Workload, Path], AbstractContextManager[Spent]]] = {
    "nothing": nothing,
    "numa-balancing-2": numa_balancing,
    "damon-migrate-hot": damon,
    "gpuscan": gpuscan,
}


def measured_or_not(method: str, pattern: str, for_s: float, *, until_enough: bool) -> dict[str, object]:
    """Return what :func:`measured` does, or why there is nothing; the others can still be measured."""
    try:
        return measured(method, pattern, for_s, until_enough=until_enough)
    except Exception as error:
        traceback.print_exc()
        if damon_scheme.n_kdamonds():
            damon_scheme.switch_off()
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return {"method": method, "pattern": pattern, "until_enough": until_enough, "failed": why}


def measured(method: str, pattern: str, for_s: float, *, until_enough: bool) -> dict[str, object]:
    """Return what one method did to one workload."""
    kernel.settle()
    with (
        tempfile.TemporaryDirectory() as name,
        Workload(Path(name), "--pattern", pattern) as workload,
        METHODS[method](workload, Path(name)) as spent,
    ):
        before, touched = kernel.vmstat(), workload.n_touched()
        user_before_s, system_before_s = kernel.cpu_s(workload.pid)
        until_share = ENOUGH if until_enough else None
        seen = observe(workload, NEAR, for_s, began_s=spent.enabled_s, until_share=until_share)
        after = kernel.vmstat()
        user_s, system_s = kernel.cpu_s(workload.pid)
        done = workload.n_touched() - touched
        cpu_s = spent.cpu_s()
    return {
        "method": method,
        "pattern": pattern,
        "until_enough": until_enough,
        "for_s": round(seen.t_s[-1], 2),
        "hot_near": {str(at_s): seen.share_at(at_s) for at_s in SHARES_AT_S},
        "time_to_95_s": seen.time_to(ENOUGH),
        "migrated_pages": after["pgmigrate_success"] - before["pgmigrate_success"],
        "arrived_pages": seen.n_arrived,
        "arrived_cold_pages": seen.n_arrived_cold,
        "cpu_s": cpu_s,
        "process_user_s": round(user_s - user_before_s, 2),
        "process_system_s": round(system_s - system_before_s, 2),
        "touched_per_s": round(done / seen.t_s[-1]),
        "startup_s": round(spent.startup_s, 1),
    }


def main() -> None:
    """Measure the methods one after the other, in as many rounds as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.peers", description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--for-s", type=float, default=31)
    parser.add_argument("--until-enough", action="store_true", help="end a run at 95 %% near")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for _ in range(options.rounds):
        for pattern in options.patterns:
            for method in options.methods:
                run = measured_or_not(method, pattern, options.for_s, until_enough=options.until_enough)
                sys.stdout.write(json.dumps(run) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
