"""``gpuscan live`` itself: what it prints, what it serves, Ctrl-C, kill -9 and the start after it."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from guest import kernel
from guest.damon_scheme import n_kdamonds, n_working
from guest.processes import Live, Workload, eventually

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

PORT, MOVED = 9464, "gpuscan_moved_pages_total{"
N_HOT = 8192
"""Hot pages of a workload as it is without options: a quarter of 128 MiB."""


def test_a_start_after_a_kill_is_clean(tmp_path: Path) -> None:
    with Workload(tmp_path, "--pause-ms", "1", "--node", "2") as workload:
        with Live(tmp_path, [workload.pid], "--monitor", "damon", name="killed") as live:
            assert n_working() == 1
            live.kill()
        eventually(lambda: n_kdamonds() == 0, "the watchdog has cleaned up", 60)
        with Live(tmp_path, [workload.pid], "--monitor", "damon", name="killed-with-watchdog") as live:
            for pid in children(live.pid):
                os.kill(pid, signal.SIGKILL)
            live.kill()
        assert n_working() == 1, "nobody was left to clean up"
        before, others = kernel.vmstat()["pgmigrate_success"], kernel.other_moves()
        with Live(tmp_path, [workload.pid], "--monitor", "damon", "--metrics", f":{PORT}") as live:
            eventually(lambda: live.moved_pages() > N_HOT // 2, "it moves pages again", 120)
            ticks = live.ticks()
            exported = metrics(PORT)
            later = eventually(lambda: live.ticks()[len(ticks) :], "and goes on", 120)
            end = live.interrupt()
    # What is served is of one tick: not before those that were printed, and not after the next.
    n_ticks = int(exported["gpuscan_ticks_total"])
    assert len(ticks) - 1 <= n_ticks <= later[-1]["tick"] + 1
    moved = sum(tick["moved_pages"] for tick in (*ticks, *later) if tick["tick"] < n_ticks)
    assert sum(value for name, value in exported.items() if name.startswith(MOVED)) == moved
    assert exported["gpuscan_processes"] == 1
    assert sum(exported[f'gpuscan_resident_pages{{node="{nid}"}}'] for nid in (0, 2)) >= 4 * N_HOT
    assert exported["gpuscan_overhead_ratio"] > 0
    assert live.process.returncode == 0
    assert end["reason"] == "interrupted"
    assert kernel.other_moves() == others
    assert end["moved_pages"] == kernel.vmstat()["pgmigrate_success"] - before


def metrics(port: int) -> dict[str, float]:
    """Return what is served at a port of this machine, by name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
