"""Measure how soon ``gpuscan run`` begins its first tick, beside how long its machine took to build.

    python benchmarks/startup.py [RUNS] [ARGUMENT OF gpuscan run ...]

The bar: a second run begins its first tick within 1 s plus the time to build the machine. One run
fills the cache of compiled kernels and is not counted. Run it with nothing else on the machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

BAR_S = 1.0


def timed_s(*args: str) -> float:
    """Return how long an interpreter with these arguments takes, to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def first_tick_s(run_args: list[str]) -> tuple[float, float]:
    """Return the seconds from the start of a process to its first tick, and those of building the machine."""
    command = [sys.executable, "-m", "gpuscan", "run", "--ticks", "1", "--json", "--quiet", *run_args]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    wall_s = json.loads(done.stdout)["wall_s"]
    return wall_s["process_to_first_tick"], wall_s["of_which_machine"]


def line(what: str, times_s: list[float]) -> str:
    """Return median, least and most."""
    return f"{what:<40} {statistics.median(times_s):6.3f} s  ({min(times_s):.3f} to {max(times_s):.3f})"


def main(args: list[str]) -> int:
    """Measure, print, and return 1 where the median misses the bar."""
    n_runs = int(args[0]) if args else 9
    first_tick_s(args[1:])
    runs = [first_tick_s(args[1:]) for _ in range(n_runs)]
    above = [first - machine for first, machine in runs]
    print(f"{n_runs} runs, median (least to most)")
    print(line("python -c pass", [timed_s("-c", "pass") for _ in range(n_runs)]))
    print(line("gpuscan --help", [timed_s("-m", "gpuscan", "--help") for _ in range(n_runs)]))
    print(line("gpuscan run, to its first tick", [first for first, _ in runs]))
    print(line("  building the machine", [machine for _, machine in runs]))
    print(line("  all else", above))
    return int(statistics.median(above) > BAR_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
