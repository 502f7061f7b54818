"""NVIDIA's checkers and profiler, in processes of their own, where they are installed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
CHILD_PAGES = {"check": 1 << 17, "profile": 1 << 28}
"""Pages of the store that a child process works on."""

_SCRIPT = Path(__file__).resolve().parent.parent / "gpu_accept.py"
_TOOLKIT = "/usr/local/cuda/bin"
_FOUND = 42
"""Exit status of compute-sanitizer when it found something."""
_TAIL_LINES = 25
_KERNELS = "scan_dense|scan_indexed|scatter|popcounts|read_all"
_METRICS = {
    "gpu__time_duration.sum": "time",
    "dram__bytes.sum": "dram_bytes",
    "dram__bytes.sum.per_second": "dram_bytes_per_s",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent_of_peak",
    "launch__registers_per_thread": "registers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
}


def find_tool(name: str) -> str | None:
    """Return the path of a CUDA tool: in PATH, or in the toolkit's usual place."""
    return shutil.which(name) or shutil.which(name, path=_TOOLKIT)


def sanitizers(left_s: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Yield one result per tool; each has an equal share of the time that is left when it starts."""
    program = find_tool("compute-sanitizer")
    for index, tool in enumerate(SANITIZERS):
        if program is None:
            yield {"tool": tool, "left_out": "compute-sanitizer is not installed"}
            continue
        limit_s = left_s() / (len(SANITIZERS) - index)
        yield {"tool": tool, **_sanitize(program, tool, limit_s)}


def _sanitize(program: str, tool: str, limit_s: float) -> dict[str, Any]:
    command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), *_child("check")]
    try:
        done = _run(command, limit_s)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not through after {limit_s:.0f} s"}
    tail = done.stdout.splitlines()[-_TAIL_LINES:]
    summary = [line.strip("= ") for line in tail if "SUMMARY" in line]
    result: dict[str, Any] = {"summary": "; ".join(summary), "exit_status": done.returncode}
    if done.returncode == _FOUND:
        return {**result, "error": f"{tool} found something", "tail": tail}
    if done.returncode != 0:
        return {**result, "error": f"the checked process ended with {done.returncode}", "tail": tail}
    return {**result, "complete": True}


def bandwidth(limit_s: float) -> dict[str, Any]:
    """Return what Nsight Compute counts for each launch of our kernels."""
    program = find_tool("ncu")
    if program is None:
        return {"left_out": "ncu is not installed"}
    # By default ncu holds clocks at their base, and every time would be too long.
    options = ["--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base"]
    options += ["--metrics", ",".join(_METRICS)]
    command = [program, *options, "--kernel-name", f"regex:^({_KERNELS})$", *_child("profile")]
    try:
        done = _run(command, limit_s)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not through after {limit_s:.0f} s"}
    launches = launches_of(done.stdout)
    if not launches:
        # Counters need a permission that containers rarely have: ERR_NVGPUCTRPERM.
        why = re.search(r"==ERROR==.*", done.stdout)
        return {"left_out": why.group(0) if why else f"ncu counted nothing, exit status {done.returncode}"}
    return {"launches": launches, "complete": True}


def launches_of(output: str) -> list[dict[str, Any]]:
    """Return one row per kernel launch of ``ncu --csv --page raw`` output: head, units, launches."""
    rows = list(csv.reader(line for line in output.splitlines() if line.startswith('"')))
    if len(rows) < 3:
        return []
    head = rows[0]
    found = []
    for row in rows[2:]:
        named = dict(zip(head, row, strict=False))
        counted = {short: _number(named[long]) for long, short in _METRICS.items() if long in named}
        found.append({"kernel": named.get("Kernel Name", ""), **counted})
    return found


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None  # "n/a": this GPU does not count it


def _child(mode: str) -> list[str]:
    return [sys.executable, str(_SCRIPT), "--child", mode]


def _run(command: list[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run in a session of its own: on time-out all of it must end, a process left over would use the GPU."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=max(1.0, limit_s))
        except BaseException:  # Ctrl-C too
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)
