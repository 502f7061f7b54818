"""DAMON's regions: nothing is lost or doubled, counts are of samples, and schemes move what they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.sim.damon import AccessedPages, DamonSpec, Kdamond, MigrateScheme
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.topology.presets import preset

SPEC = DamonSpec(sample_ns=10_000_000, aggregate_ns=100_000_000, min_regions=10, max_regions=200)
NEVER = MigrateScheme(0, 1 << 30, 1 << 30, 0, None)
COLD_NID, HOT_NID = 0, 2


def machine(hot_rate: float = 400_000.0) -> SimulatedMachine:
    """Return a machine with a hot process of 16 MiB and a cold one of 32 on its CXL node."""
    on_slow = ((HOT_NID, 1.0),)
    hot = ProcessSpec("hot", 4096, (0,), hot_rate, on_slow, pattern=PatternSpec("scan"))
    cold = ProcessSpec("cold", 8192, (0,), 1.0, on_slow, pattern=PatternSpec("scan"))
    return SimulatedMachine(
        preset("two-socket-cxl", 1 << 30), MachineSpec((hot, cold), HintFaultSpec(scan_period_ns=0))
    )


def run(made: SimulatedMachine, bits: AccessedPages, thread: Kdamond, n_aggregations: int) -> list[Any]:
    found = []
    for step in range(1, n_aggregations * SPEC.n_samples + 1):
        made.run((step - 1) * SPEC.sample_ns, SPEC.sample_ns, bits)
        thread.sample()
        if step % SPEC.n_samples == 0:
            found.append(thread.aggregate())
    return found


def test_regions_cover_the_node_once_and_stay_within_bounds() -> None:
    made = machine()
    bits = AccessedPages(made)
    thread = Kdamond(SPEC, NEVER, made, HOT_NID, bits, 1)
    n_pages = made.topology.node(HOT_NID).present_pages
    most = 0
    for _ in range(12):
        assert not len(run(made, bits, thread, 1)[0])
        starts, ends = thread._start, thread._end
        assert (starts[1:] == ends[:-1]).all()
        assert (starts < ends).all()
        assert (ends - starts).sum() == n_pages
        assert (made.page_map.nid_of_flat(starts) == HOT_NID).all()
        most = max(most, thread.n_regions)
        assert thread.n_regions <= SPEC.max_regions + SPEC.max_regions // 2
    assert most > 2 * SPEC.min_regions


def test_hot_pages_move_and_cold_ones_stay() -> None:
    made = machine()
    bits = AccessedPages(made)
    scheme = MigrateScheme(0, 1, SPEC.n_samples, 0, "young")
    thread = Kdamond(SPEC, scheme, made, HOT_NID, bits, 1)
    migrator = SimulatedMigrator(made)
    for _ in range(15):
        (frames,) = run(made, bits, thread, 1)
        assert (np.diff(frames) > 0).all()
        migrator.migrate(0, made.page_map.pfn_of_flat(frames), np.ones(len(frames), dtype=np.int64))
    nids = made.page_map.nid_of_flat(made.space.frame_of.astype(np.int64))
    assert (nids[:4096] == 0).mean() > 0.95
    # Every page was young once, when it was allocated: those that shared a region with hot ones went along.
    assert (nids[4096:] == 0).mean() < 0.5


@pytest.mark.parametrize(("only", "moved"), [("young", [0, 2]), ("old", [1, 3]), (None, [0, 1, 2, 3])])
def test_a_filter_takes_pages_by_their_bit_and_clears_it(only: Any, moved: list[int]) -> None:
    made = machine()
    bits = AccessedPages(made)
    frames = made.space.frame_of[:4].astype(np.int64)
    bits.take(made.space.frame_of.astype(np.int64))
    bits._last_nid[[0, 2]] = 0
    thread = Kdamond(SPEC, MigrateScheme(0, 0, SPEC.n_samples, 0, only), made, HOT_NID, bits, 1)
    bits._last_nid[[0, 2]] = 0  # a region may have drawn one of them
    thread._start, thread._end = frames[:1], frames[3:] + 1
    thread._count = thread._last_count = thread._age = np.zeros(1, dtype=np.int64)
    assert thread._matching().tolist() == frames[moved].tolist()
    assert not bits.take(frames).any() or only is None


def test_counts_are_of_samples() -> None:
    made = machine(hot_rate=4096 * 1000.0)  # every page in every interval
    bits = AccessedPages(made)
    thread = Kdamond(SPEC, NEVER, made, HOT_NID, bits, 1)
    run(made, bits, thread, 10)
    hot = made.space.frame_of[:4096].astype(np.int64)
    inside = (thread._start >= hot.min()) & (thread._end <= hot.max() + 1)
    # Of one that was cut off from a neighbour, the count is still that of both.
    assert thread._last_count[inside].max() == SPEC.n_samples
    assert thread._last_count.max() <= SPEC.n_samples
