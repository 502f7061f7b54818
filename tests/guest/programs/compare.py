"""Who brings what a real program reads near, at what cost: ``python -m tests.guest.programs.compare``.

For the guest. Each method, in each round, finds a program that was started for it, with all of its records
far away: NUMA balancing looks the less often at a process the longer it has found nothing to do there. Prints
one JSON object a line for each; :mod:`tests.guest.programs.table` makes a table of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from .. import damon_scheme, kernel
from ..cgroups import cgroups
from ..peer_methods import METHODS, NEAR, called
from .catalogue import NAMES, load
from .places import Near, Places
from .running import Client, Running, running

FAR, ELSEWHERE = 2, 1
"""Where records begin, and the client's CPU."""
ENOUGH_FAR = 0.98
SAMPLE_S = 0.5
AT_S = (2, 5, 12)


def measured(
    method: str, program: Running, places: Places, client: Client, processes: list[str], for_s: float
) -> dict[str, Any]:
    """Return what one method did to a program that is asked all the time."""
    kernel.settle()
    places.put(FAR, ENOUGH_FAR)
    with tempfile.TemporaryDirectory() as folder, METHODS[method](processes, Path(folder)) as spent:
        before = kernel.vmstat()
        seen: list[tuple[float, Near]] = []
        while not seen or seen[-1][0] < for_s:
            time.sleep(SAMPLE_S)
            seen.append((time.monotonic() - spent.enabled_s, places.near(NEAR)))
        after = kernel.vmstat()
        pace = client.pace(spent.enabled_s, time.monotonic())
        cpu_s = spent.cpu_s()
    return {
        "program": program.name,
        "method": called(method),
        "reads_near": {
            str(at_s): next((near.reads for t_s, near in seen if t_s >= at_s), None) for at_s in AT_S
        },
        "reads_near_each": [(round(t_s, 1), round(near.reads, 4)) for t_s, near in seen],
        "hot_near": seen[-1][1].hot,
        "others_near": seen[-1][1].others,
        "migrated_pages": after["pgmigrate_success"] - before["pgmigrate_success"],
        "cpu_s": cpu_s,
        "reads_per_s": round(pace.reads_per_s),
        "longest_gap_s": round(pace.longest_gap_s, 2),
        "startup_s": round(spent.startup_s, 1),
        "load": os.getloadavg()[0],
    }


def compare(name: str, method: str, for_s: float) -> dict[str, Any]:
    """Return what a method does to a program, having verified what that holds at the end."""
    with (
        cgroups("gpuscan-programs", ["program"]) as above,
        running(name, above / "program", NEAR) as program,
        tempfile.TemporaryDirectory() as folder,
    ):
        places = Places(program.holder_pid, program.program.shares())
        processes = ["--cgroup", str(above / "program"), "--monitor", program.program.monitor]
        with Client(program, Path(folder), ELSEWHERE) as client:
            found = measured(method, program, places, client, processes, for_s)
            last = client.finish()
        kernel.settle()
        stayed = places.are_still_there()
        program.check(last["n_writes"])
        program.end()
    return {**found, "records_stayed": stayed, "n_writes": last["n_writes"]}


def main() -> None:
    """Compare, one program after the other; one that fails does not keep the others from it.

    Raises:
        SystemExit: all of them failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.guest.programs.compare", description=__doc__)
    parser.add_argument("--programs", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--for-s", type=float, default=AT_S[-1])
    options = parser.parse_args()
    n_failed = 0
    for name in options.programs:
        if why := load(name).missing():
            _say({"program": name, "failed": why})
            n_failed += 1
            continue
        has_failed = True
        for method in options.rounds * options.methods:
            try:
                _say(compare(name, method, options.for_s))
                has_failed = False
            except Exception as error:
                traceback.print_exc()
                if damon_scheme.n_kdamonds():
                    damon_scheme.switch_off()
                why = f"{method}: {type(error).__name__}: {error}".splitlines()[0][:200]
                _say({"program": name, "failed": why})
        n_failed += has_failed
    if n_failed == len(options.programs):
        sys.exit("no program was compared to its end")


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
