"""A node is emptied of what a process has there, and the kernel counts what the report says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuscan.base.units import PAGE_BYTES
from guest import kernel
from guest.processes import Workload
from guest.session import run_live
from guest.shown import show

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FAR, NEAR = 2, 0
LONG_S = 120.0
PAUSE = ("--pause-ms", "1", "--mib", "32", "--node", str(FAR))


@pytest.mark.parametrize("pages", ["small", "huge"])
def test_every_page_leaves_whether_it_is_used_or_not(tmp_path: Path, pages: str) -> None:
    with Workload(tmp_path, *PAUSE, *(["--thp"] if pages == "huge" else [])) as workload:
        end, n_pages = workload.address + workload.n_bytes, workload.n_bytes // PAGE_BYTES
        assert kernel.numa_maps(workload.pid, workload.address, end) == {FAR: n_pages}
        ran = run_live(workload.pid, for_s=LONG_S, evacuate_nid=FAR)
        on_nodes = kernel.numa_maps(workload.pid, workload.address, end)
        n_touched = workload.n_touched()
    show(f"32 MiB leave their node, {pages} pages", ran, source="none")
    assert on_nodes == {NEAR: n_pages}, "the nearest node has room for all of it"
    assert n_touched > 0
    assert ran.totals.end_reason == f"nothing that can move is left on node {FAR}"
    # What other processes map too, of the interpreter, may be there and stay.
    assert ran.totals.left_pages < 0.02 * n_pages
    assert not ran.other_moves, "others moved pages as well"
    assert ran.migrated_pages == ran.totals.moved_pages >= n_pages, ran.disagreements
    ledger = ran.report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()


def test_what_may_be_nowhere_else_is_left(tmp_path: Path) -> None:
    with Workload(tmp_path, *PAUSE, "--bind") as workload:
        n_pages = workload.n_bytes // PAGE_BYTES
        ran = run_live(workload.pid, for_s=LONG_S, evacuate_nid=FAR)
        nodes = workload.nodes()
    show("32 MiB that are bound to the node", ran, source="none")
    assert (nodes == FAR).all()
    assert n_pages <= ran.totals.left_pages < 1.02 * n_pages
    assert ran.totals.exit_code == 4
