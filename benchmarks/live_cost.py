"""Measure what ``gpuscan live`` costs on a process with a large sparse mapping: memory, start, CPU per look.

    sudo python benchmarks/live_cost.py [GIB] [TOUCHED_MIB] [ROUNDS]

The process is gpuscan's own child: 64 GiB are mapped, and pages of 1 GiB touched, in places of 64 KiB all
over it. A tenth of these is written again and again. gpuscan moves nothing (``--dry-run``), and leaves DAMON
alone: each of ``written`` (PAGEMAP_SCAN), ``soft-dirty`` and ``kpageflags`` that works here is measured, in
turn. A round is one gpuscan, from its start to its end. What is asked for: 150 MiB resident, a start in 2 s,
50 ms of CPU per look.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MOST_MIB, MOST_START_S, MOST_LOOK_MS = 150, 2.0, 50.0
FOR_S = 8
MONITORS = ("written", "soft-dirty", "kpageflags")
_MAP_NORESERVE = 0x4000  # include/uapi/asm-generic/mman-common.h
_STRETCH = 64 << 10
_RESIDENT = "VmRSS"


def target(gib: int, touched_mib: int) -> None:
    """Map, touch, say so, and go on writing to a tenth; for ever."""
    memory = mmap.mmap(-1, gib << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    n_stretches = (touched_mib << 20) // _STRETCH
    step = (gib << 30) // n_stretches // mmap.PAGESIZE * mmap.PAGESIZE
    places = [start + at for start in range(0, n_stretches * step, step) for at in range(0, _STRETCH, 4096)]
    for place in places:
        memory[place] = 1
    hot = places[: len(places) // 10]
    while True:
        for place in hot:
            memory[place] = 2
        time.sleep(0.02)


def resident_mib(pid: int) -> float:
    """Return what a process has resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(_RESIDENT))) / 1024


def measured(monitor: str, watched: list[str]) -> dict[str, float] | None:
    """Run gpuscan once; return MiB, seconds and milliseconds; None where the monitor does not work here."""
    command = [
        sys.executable,
        "-m",
        "gpuscan",
        "live",
        "--dry-run",
        "--json",
        "--quiet",
        "--monitor",
        monitor,
    ]
    command += ["--for", f"{FOR_S}s", "--device", "cpu", "--threads", "1", "--", *watched]
    most_mib = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = []
        for text in run.stdout:
            lines.append(json.loads(text))
            if lines[-1]["event"] == "tick":
                most_mib = max(most_mib, resident_mib(run.pid))
    if run.returncode or not lines:
        return None
    start, end = lines[0], lines[-1]
    return {
        "resident_mib": most_mib,
        "start_s": start["startup_s"],
        "look_cpu_ms": 1e3 * end["cpu_s"]["gpuscan"] / end["ticks"],
        "looks": end["ticks"],
    }


def main(args: list[str]) -> int:
    """Measure, print, and return 1 where a bar is missed."""
    if args[:1] == ["target"]:
        target(int(args[1]), int(args[2]))
    gib, touched_mib, n_rounds = (int(given) for given in (*args, *("64", "1024", "5")[len(args) :]))
    if os.geteuid():
        raise SystemExit("page frame numbers are shown to root; use sudo")
    watched = [sys.executable, __file__, "target", str(gib), str(touched_mib)]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in MONITORS}
    for _ in range(n_rounds):
        for name in MONITORS:
            if (found := measured(name, watched)) is not None:
                rounds[name].append(found)
    bars = {"resident_mib": MOST_MIB, "start_s": MOST_START_S, "look_cpu_ms": MOST_LOOK_MS}
    print(f"{gib} GiB mapped, {touched_mib} MiB touched; median (least to most)")
    missed = False
    for name, all_of_it in rounds.items():
        for what, bar in bars.items() if all_of_it else ():
            each = [one[what] for one in all_of_it]
            missed |= statistics.median(each) > bar
            spread = f"{statistics.median(each):8.2f}  ({min(each):.2f} to {max(each):.2f})"
            looks = f"{len(each)} rounds, {statistics.median(one['looks'] for one in all_of_it):.0f} looks"
            print(f"{name:<11} {what:<13} {spread}, wanted {bar:g} or less; {looks}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
