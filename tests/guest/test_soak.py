"""Half an hour of ``gpuscan live`` on processes that do not keep still: ``make soak-live``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from guest.leaks import strays
from guest.processes import HERE, Live, Program, Workload
from guest.shown import note
from guest.test_moves import UNACCOUNTED_PAGES

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(0)]

SOAK_S = float(os.environ.get("GPUSCAN_SOAK_S", "1800"))
SETTLED_S = SOAK_S / 6
"""After that gpuscan is taken to have as much memory as it needs."""


def test_it_neither_grows_nor_harms_nor_stops_for_half_an_hour(tmp_path: Path) -> None:
    before = strays()
    unsettled = [sys.executable, str(HERE / "unsettled.py")]
    shifting = ("--pause-ms", "1", "--pattern", "shifting", "--mib", "64", "--shift-s", "20")
    with (
        Program(unsettled, tmp_path, "unsettled") as changing,
        Workload(tmp_path, *shifting) as workload,
        Live(tmp_path, [changing.pid, workload.pid], "--demote", "--for", f"{SOAK_S:g}s") as live,
    ):
        time.sleep(SETTLED_S)
        resident, descriptors, steps = resident_kib(live.pid), n_descriptors(live.pid), changing.said()[-1]
        time.sleep(SOAK_S * 0.8 - SETTLED_S)
        resident_late, steps_late = resident_kib(live.pid), changing.said()[-1]
        assert n_descriptors(live.pid) <= descriptors
        assert changing.process.poll() is None, "its pages hold what it wrote"
        assert live.end(SOAK_S) == 0, live.complaints()
        end = live.said()[-1]
        changing.process.terminate()
        assert changing.end(120) == 0
    after = strays()
    ledger, failed = end["ledger"], sum(end["failed"].values())
    moved = f"{end['promoted_pages']:,} pages up, {end['demoted_pages']:,} down"
    note(f"soak of {SOAK_S:g} s: {end['ticks']:,} ticks, {moved}, {end['overhead_percent']} % of a CPU")
    note(f"refused {failed:,}: {end['failed']}")
    note(f"ledger {ledger}")
    note(f"resident after {SETTLED_S:g} s {resident} KiB, later {resident_late} KiB")
    note(f"steps {steps['n_steps']} to {steps_late['n_steps']}; pages that are nobody's: {before}, {after}")
    assert resident_late < 1.1 * resident + 4096
    assert steps_late["n_steps"] > steps["n_steps"]
    assert end["reason"] == "time is over"
    assert end["promoted_pages"] > 0
    assert end["demoted_pages"] > 0
    assert ledger["in_flight"] == 0
    assert after.orphans <= before.orphans
    assert after.unaccounted <= before.unaccounted + UNACCOUNTED_PAGES


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def n_descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
