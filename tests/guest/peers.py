"""Who brings a process's hot pages near, how fast, and what else it moves: ``python -m tests.guest.peers``.

For the guest: it switches NUMA balancing and DAMON on and off. Prints one JSON object a line for each run;
:mod:`tests.guest.peers_table` makes tables of them. On a kernel that has kmigrated NUMA balancing is called
that (docs/notes/kmigrated.md).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from . import damon_scheme, kernel, kmigrated
from .observed import observe, observe_pair
from .peer_methods import METHODS, NEAR, called, of_pids
from .processes import Pair, Workload

OF_ONE = ("fixed", "shifting", "uniform")
INTERLEAVED, IDLE = "interleaved", "idle"
"""Two processes on different nodes whose pages lie by turns on one; nobody at all."""
PATTERNS = (*OF_ONE, INTERLEAVED, IDLE)
SHARES_AT_S = (2, 5, 10, 30)
ENOUGH = 0.95


def measured_or_not(method: str, pattern: str, for_s: float, *, until_enough: bool) -> dict[str, Any]:
    """Return what :func:`measured` does, or why there is nothing; the others can still be measured."""
    try:
        return measured(method, pattern, for_s, until_enough=until_enough)
    except Exception as error:
        traceback.print_exc()
        if damon_scheme.n_kdamonds():
            damon_scheme.switch_off()
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return {**_named(method, pattern), "until_enough": until_enough, "failed": why}


def measured(method: str, pattern: str, for_s: float, *, until_enough: bool) -> dict[str, Any]:
    """Return what one method did to one workload."""
    kernel.settle()
    if pattern == INTERLEAVED:
        return measured_pair(method, for_s)
    if pattern == IDLE:
        return measured_idle(method, for_s)
    with (
        tempfile.TemporaryDirectory() as name,
        Workload(Path(name), "--pattern", pattern) as workload,
        METHODS[method](of_pids(workload.pid), Path(name)) as spent,
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
        **_named(method, pattern),
        "until_enough": until_enough,
        "for_s": round(seen.t_s[-1], 2),
        "hot_near": {str(at_s): seen.share_at(at_s) for at_s in SHARES_AT_S},
        "hot_near_each_s": seen.share_each_s(),
        "time_to_95_s": seen.time_to(ENOUGH),
        "migrated_pages": after["pgmigrate_success"] - before["pgmigrate_success"],
        "arrived_pages": seen.n_arrived,
        "arrived_cold_pages": seen.n_arrived_cold,
        "arrived_elsewhere_pages": seen.n_arrived_elsewhere,
        "cpu_s": cpu_s,
        "process_user_s": round(user_s - user_before_s, 2),
        "process_system_s": round(system_s - system_before_s, 2),
        "touched_per_s": round(done / seen.t_s[-1]),
        "startup_s": round(spent.startup_s, 1),
    }


def measured_pair(method: str, for_s: float) -> dict[str, Any]:
    """Return what one method did to two processes whose pages lie by turns on one node."""
    with (
        tempfile.TemporaryDirectory() as name,
        Pair(Path(name)) as pair,
        METHODS[method](of_pids(*pair.pids), Path(name)) as spent,
    ):
        before = kernel.vmstat()
        seen = observe_pair(pair, for_s, began_s=spent.enabled_s)
        after = kernel.vmstat()
        cpu_s = spent.cpu_s()
    return {
        **_named(method, INTERLEAVED),
        "until_enough": False,
        "for_s": round(seen.t_s[-1], 2),
        "migrated_pages": after["pgmigrate_success"] - before["pgmigrate_success"],
        "arrived_right_pages": seen.n_right,
        "arrived_wrong_pages": seen.n_wrong,
        "right_at_end": seen.right[-1],
        "cpu_s": cpu_s,
    }


def measured_idle(method: str, for_s: float) -> dict[str, Any]:
    """Return what the threads of a kernel that has kmigrated take while nobody has anything to move."""
    with METHODS[method]([], Path()):
        before_s = kmigrated.cpu_s()
        time.sleep(for_s if before_s else 0)
        after_s = kmigrated.cpu_s()
    return {
        **_named(method, IDLE),
        "until_enough": False,
        "for_s": for_s,
        "thread_cpu_s": {str(nid): round(after_s[nid] - before_s[nid], 2) for nid in before_s},
    }


def _named(method: str, pattern: str) -> dict[str, Any]:
    return {"method": called(method), "pattern": pattern, "kernel": platform.release()}


def main() -> None:
    """Measure the methods one after the other, in as many rounds as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.peers", description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(OF_ONE))
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
