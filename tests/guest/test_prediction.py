"""What a scan of a snapshot and a run on it predict, against what then is moved of the same process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.cli.main import main
from guest.kernel import nodes_of, page_frames
from guest.processes import Workload
from guest.session import run_live
from guest.shown import Near, note, show
from guest.test_moves import FAR, LONG_S, NEAR, PAUSE

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

# The hot pages of the snapshot are accessed, all alike, and no others; in each second of the 4 that are
# simulated hint faults see all memory.
ON_THE_SNAPSHOT = (
    *("--ticks", "40", "--set", "processes.0.pattern.hot_accesses=100%"),
    *("--set", "processes.0.pattern.skew=0", "--set", "producer.hint_faults.scan_size=100%"),
)


def planned(folder: Path, *command: str) -> NDArray[np.int64]:
    """Run a command that keeps a plan and return the plan's PFNs."""
    assert main([*command, "--out", str(folder), "--device", "cpu", "--json"]) == 0
    return parquet.read_table(folder / "plan.parquet")["pfn"].to_numpy()


def test_the_plans_for_a_snapshot_are_what_a_live_run_carries_out(tmp_path: Path) -> None:
    snapshot = str(tmp_path / "guest.zarr")
    with Workload(tmp_path, *PAUSE, "--node", str(FAR)) as workload:
        frames = page_frames(workload.pid, workload.address, workload.n_bytes)
        assert main(["capture", snapshot, "--pid", str(workload.pid), "--for", "4s"]) == 0
        scan = planned(tmp_path / "scan", "scan", snapshot)
        run = planned(tmp_path / "run", "run", "cxl-promote", "--machine", snapshot, *ON_THE_SNAPSHOT)
        near = Near(workload, NEAR)
        ran = run_live(workload.pid, for_s=LONG_S, until=near)
        after = workload.nodes()
        lo, hi = (offset // PAGE_BYTES for offset in workload.hot())
    assert (nodes_of(frames) == FAR).all(), "it was all far when it was captured"
    show("the process of the prediction", ran, after_s=near.after_s)
    hot = np.zeros(len(frames), dtype=np.bool_)
    hot[lo:hi] = True
    actual = after == NEAR
    note("")
    head = f"of {len(frames):,} pages on node {FAR}, {hot.sum():,} of them hot"
    note(f"| {head} | to node {NEAR} | hot ones | the same as moved |")
    note("|---|---|---|---|")
    for name, moves in {
        "gpuscan scan, of the snapshot": np.isin(frames, scan),
        "gpuscan run, on the snapshot": np.isin(frames, run),
        "gpuscan live, moved": actual,
    }.items():
        alike = (moves & actual).sum() / (moves | actual).sum()
        note(f"| {name} | {moves.sum():,} | {(moves & hot).sum():,} | {alike:.1%} |")
        assert alike >= 0.9, name
        assert (moves & hot).sum() >= 0.9 * hot.sum(), name
    assert set(np.unique(after).tolist()) == {NEAR, FAR}, "nothing went to another node"
