"""A process's hot pages end near, nothing else does, and the kernel counts what the ledger says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpuscan.base.units import PAGE_BYTES
from gpuscan.live.session import LiveTotals
from guest import kernel
from guest.leaks import Strays, strays
from guest.processes import HERE, Program, Workload, eventually
from guest.session import Ran, run_live
from guest.shown import ENOUGH, Near, note, on_node, show

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FAR, NEAR = 2, 0
MOVED_PAGES, MEANWHILE_STEPS = 1024, 200
"""What a process that changes all the time goes through before it may end."""
UNACCOUNTED_PAGES = 128
"""What the kernel itself may take meanwhile without saying so: see test_leaks.py."""
LONG_S = 120.0
"""What takes a second or two on a machine with nothing else to do must not fail on another one: a test waits
for a state, not for a time, and the table at the end says how long it took."""
PAUSE = ("--pause-ms", "1")
"""Leaves the guest's two emulated CPUs time for gpuscan; 1 ms is a fifth of a sampling interval of DAMON."""


def assert_books_agree(ran: Ran) -> None:
    """Check that gpuscan moved what the kernel says was moved, and that every request ended or waits."""
    assert not ran.other_moves, "others moved pages as well"
    assert ran.migrated_pages == ran.totals.moved_pages, ran.disagreements
    ledger = ran.report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    assert ledger.in_flight == 0


@pytest.mark.parametrize("pages", ["small", "huge"])
def test_the_hot_quarter_ends_near_and_nearly_nothing_else(tmp_path: Path, pages: str) -> None:
    options = [*PAUSE, "--node", str(FAR), *(["--thp"] if pages == "huge" else [])]
    with Workload(tmp_path, *options) as workload:
        end = workload.address + workload.n_bytes
        n_pages, n_hot = workload.n_bytes // PAGE_BYTES, workload.n_bytes // PAGE_BYTES // 4
        assert kernel.numa_maps(workload.pid, workload.address, end) == {FAR: n_pages}
        near = Near(workload, NEAR)
        ran = run_live(workload.pid, for_s=LONG_S, until=near)
        share = on_node(workload, NEAR)
        on_nodes = kernel.numa_maps(workload.pid, workload.address, end)
        huge_bytes = kernel.huge_bytes(workload.pid, workload.address)
    show(f"hot quarter of 128 MiB, {pages} pages", ran, share=share, after_s=near.after_s)
    assert share.hot >= ENOUGH
    # A border between hot and cold that is seen a little off takes a huge page with it, at either end.
    most_cold = 2 * 512 if pages == "huge" else 0.02 * ran.totals.moved_pages
    assert share.n_cold <= most_cold
    assert set(on_nodes) == {NEAR, FAR}
    assert 0.95 * n_hot <= on_nodes[NEAR] <= n_hot + most_cold
    assert on_nodes[NEAR] + on_nodes[FAR] == n_pages, "no page is lost"
    assert_books_agree(ran)
    if pages == "huge":
        assert huge_bytes == workload.n_bytes, "huge pages moved whole"
        assert ran.huge_migrated >= 0.95 * n_hot // 512


def test_a_process_that_is_pinned_to_its_node_stays_there(tmp_path: Path) -> None:
    not_allowed = "not allowed there (cpuset or memory policy)"
    with Workload(tmp_path, *PAUSE, "--mib", "32", "--node", str(FAR), "--bind") as workload:
        n_hot = workload.n_bytes // PAGE_BYTES // 4
        ran = run_live(
            workload.pid, for_s=LONG_S, until=lambda totals, _: totals.skipped[not_allowed] >= 3 * n_hot
        )
        nodes = workload.nodes()
    show("the same, bound to its node", ran)
    assert ran.totals.skipped[not_allowed] >= 3 * n_hot, "its hot pages were seen, again and again"
    assert (nodes == FAR).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_that_maps_remaps_and_forks_at_random_is_not_harmed(tmp_path: Path, seed: int) -> None:
    before, n_descriptors = strays(), count_descriptors()
    command = [sys.executable, str(HERE / "unsettled.py"), "--seed", str(seed)]
    with Program(command, tmp_path, "unsettled") as unsettled:
        began = unsettled.wait_for(lambda line: line["n_steps"], 60)["n_steps"]

        def end_it_when_enough_has_moved(totals: LiveTotals, _: object) -> bool:
            steps = unsettled.said()[-1]["n_steps"] - began
            if totals.moved_pages >= MOVED_PAGES and steps >= MEANWHILE_STEPS:
                unsettled.process.terminate()
            return False

        ran = run_live(unsettled.pid, for_s=120, monitor="damon", until=end_it_when_enough_has_moved)
        status = unsettled.end(60)
    assert status == 0, "every page held what was written to it"
    show(f"maps, remaps and forks at random, seed {seed}", ran)
    assert ran.totals.end_reason == "process ended"
    assert ran.totals.moved_pages >= MOVED_PAGES, "it was moved while it changed"
    ledger = ran.report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    assert count_descriptors() == n_descriptors
    # What the kernel frees late (RCU, work queues) is waited for; what is still nobody's then is lost.
    left = eventually(lambda: none_left(before), "all pages are somebody's")
    note(f"pages that are nobody's: before {before}, after {left}; moved {ran.totals.moved_pages}")


def none_left(before: Strays) -> Strays | None:
    """Return the pages that are nobody's, once there are not more than before."""
    now = strays()
    lost = now.orphans > before.orphans or now.unaccounted > before.unaccounted + UNACCOUNTED_PAGES
    return None if lost else now


def count_descriptors() -> int:
    """Return how many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_what_does_not_fit_waits_until_there_is_room(tmp_path: Path) -> None:
    leave_mib = str(kernel.high_watermark_mib(NEAR) + 2)
    command = [sys.executable, str(HERE / "filler.py"), "--node", str(NEAR), "--leave-mib", leave_mib]
    with Workload(tmp_path, *PAUSE, "--node", str(FAR)) as workload:
        with Program(command, tmp_path, "filler") as filler:
            filler.wait_for(lambda line: "held_mib" in line, 60)
            ran = run_live(workload.pid, for_s=LONG_S, until=lambda _, refused: refused.total() > 0)
            full = on_node(workload, NEAR)
            show("the target is full", ran, share=full)
            assert ran.refused("target not balanced") > 0
            # How much fits before is the kernel's: it lets file pages go while pages move.
            assert full.hot < ENOUGH
            assert_books_agree(ran)
        near = Near(workload, NEAR)
        ran = run_live(workload.pid, for_s=LONG_S, until=near)
        share = on_node(workload, NEAR)
    show("and then has room", ran, share=share, after_s=near.after_s)
    assert share.hot >= ENOUGH
    assert_books_agree(ran)


def test_the_rate_is_held(tmp_path: Path) -> None:
    rate = 3 << 20
    with Workload(tmp_path, *PAUSE, "--node", str(FAR), "--pattern", "uniform") as workload:
        ran = run_live(
            workload.pid,
            for_s=LONG_S,
            rate_limit_bytes_per_s=rate,
            until=lambda totals, _: totals.moved_pages >= 8 * rate // PAGE_BYTES,
        )
    t_s, n_bytes = np.array([(t_s, n_pages * PAGE_BYTES) for t_s, n_pages in ran.ticks]).T
    assert n_bytes[-1] < workload.n_bytes, "all the time something waits"
    # What a tick may move grew in the one before, however long that took.
    first = int((n_bytes > 0).argmax())
    measured = np.polyfit(t_s[first:-1], n_bytes[first + 1 :], 1)[0]
    show(f"{rate >> 20} MiB/s at most, all of it hot: {measured / (1 << 20):.2f} MiB/s", ran)
    assert measured == pytest.approx(rate, rel=0.1)
    assert_books_agree(ran)
