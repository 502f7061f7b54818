"""The pause between two visits of NUMA balancing's scanner, by the kernel's arithmetic and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.sim.scan_period import FaultCounts, ScanPeriod, n_scan_windows, scan_max_ms, scan_min_ms
from gpuscan.sim.spec import HintFaultSpec

MIB = 1 << 20
GIB_PAGES = 1 << 18


@pytest.mark.parametrize(
    ("rss_pages", "windows", "shortest", "longest"),
    [
        (0, 1, 1000, 60_000),
        (1, 1, 1000, 60_000),
        (GIB_PAGES // 4, 1, 1000, 60_000),  # 256 MiB
        (GIB_PAGES // 4 + 1, 2, 500, 30_000),
        (GIB_PAGES, 4, 250, 15_000),
        (4 * GIB_PAGES, 16, 100, 3750),  # 1000 / 16 is 62: the floor of 2,560 MB a second holds
        (256 * GIB_PAGES, 1024, 100, 100),  # 60,000 / 1024 is 58: the longest is never below the shortest
    ],
)
def test_defaults(rss_pages: int, windows: int, shortest: int, longest: int) -> None:
    assert n_scan_windows(rss_pages, 256 * MIB) == windows
    assert scan_min_ms(1000, rss_pages, 256 * MIB) == shortest
    assert scan_max_ms(1000, 60_000, rss_pages, 256 * MIB) == longest


def test_floor_follows_the_scan_size() -> None:
    assert scan_min_ms(1, GIB_PAGES, 1024 * MIB) == 500  # 2560 / 1024 is 2 windows a second
    assert scan_min_ms(1, GIB_PAGES, 4096 * MIB) == 1000
    assert scan_min_ms(1, GIB_PAGES, 1 * MIB) == 1  # 1000 / 2560 is 0, and 1 / 1024 too


def period(ms: int | None = None, **counts: int) -> ScanPeriod:
    """Return the pause of a process of 2 GiB, 125 ms to 7.5 s."""
    found = ScanPeriod(HintFaultSpec(), 2 * GIB_PAGES)
    found.period_ms = found.period_ms if ms is None else ms
    found.counts = FaultCounts(**counts)
    return found


def updated(ms: int, **counts: int) -> int:
    moved = period(ms, **counts)
    moved.update()
    return moved.period_ms


def test_starts_with_the_shortest() -> None:
    assert (period().period_ms, period().min_ms, period().max_ms) == (125, 125, 7500)


def test_mostly_private_slows_down() -> None:
    assert updated(1000, local=1, remote=99, private=70, shared=30) == 1100  # 7 tenths: one slot
    assert updated(1000, local=1, remote=99, private=90, shared=10) == 1200
    assert updated(1000, local=1, remote=99, private=100) == 1300
    assert updated(7400, local=1, remote=99, private=100) == 7500


def test_mostly_local_slows_down() -> None:
    assert updated(1000, local=79, remote=21, private=1, shared=99) == 1100
    assert updated(1000, local=100, private=1, shared=99) == 1300


def test_remote_and_shared_speeds_up() -> None:
    assert updated(1000, local=10, remote=90, private=30, shared=70) == 600  # 3 - 7 slots of 100
    assert updated(1000, local=50, remote=50, private=30, shared=70) == 800
    assert updated(1001, local=69, remote=31, private=0, shared=100) == 900  # a slot is rounded up: 101
    assert updated(130, local=0, remote=100, private=0, shared=100) == 125


def test_no_local_and_no_shared_fault_doubles_the_pause() -> None:
    assert updated(1000) == 2000
    assert updated(1000, remote=100, private=100) == 2000
    assert updated(5000, remote=100, private=100) == 7500


def test_a_failed_migration_doubles_the_pause_pass_after_pass() -> None:
    # update_task_scan_period() returns before it zeroes numa_faults_locality.
    stuck = period(1000, local=100, private=50, shared=50, failed=1)
    assert stuck.update()
    assert (stuck.period_ms, stuck.counts) == (2000, FaultCounts(local=100, failed=1))
    stuck.counts.local += 100
    stuck.counts.private += 100
    assert stuck.update()
    assert stuck.period_ms == 4000
    well = period(1000, local=100, private=50, shared=50)
    assert not well.update()
    assert (well.period_ms, well.counts) == (1300, FaultCounts())


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000)),
        max_size=20,
    ),
    st.integers(0, 1 << 28),
    st.integers(0, 1 << 36),
)
def test_stays_within_its_bounds(
    passes: list[tuple[int, int, int, int]], rss_pages: int, scan_bytes: int
) -> None:
    moving = ScanPeriod(HintFaultSpec(scan_bytes=scan_bytes), rss_pages)
    for n_faults, n_local, n_private, failed in passes:
        local, private = min(n_local, n_faults), min(n_private, n_faults)
        counts = moving.counts
        counts.local += local
        counts.remote += n_faults - local
        counts.private += private
        counts.shared += n_faults - private
        counts.failed += failed // 900
        moving.update()
        assert 1 <= moving.min_ms <= moving.period_ms <= moving.max_ms
