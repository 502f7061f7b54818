"""Pages that two processes map, and pages of hugetlbfs, of the real kernel."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.live.session import LiveTotals
from gpuscan.monitors.source import OTHERS
from guest import kernel
from guest.processes import HERE, Program
from guest.session import run_live
from guest.shown import ENOUGH, Near, note, on_node, show
from guest.test_moves import LONG_S, assert_books_agree

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FAR, NEAR = 2, 0
HUGE_PAGES = 512
N_HOT = (32 << 20) // PAGE_BYTES // 4


class Sharers(Program):
    """``sharing.py``, running, its memory in place."""

    def __init__(self, folder: Path, how: str) -> None:
        super().__init__([sys.executable, str(HERE / "sharing.py"), "--how", how], folder, "sharing")
        place = self.wait_for(lambda line: "address" in line, 200)
        self.pids: list[int] = place["pids"]
        self._address, self._n_bytes = place["address"], place["n_bytes"]
        self.wait_for(lambda line: "hot" in line, 60)

    def hot(self) -> tuple[int, int]:
        """Return the hot stretch, in bytes from the start of its memory."""
        lo, hi = self.said()[-1]["hot"]
        return lo, hi

    def nodes(self, which: int = 0) -> NDArray[np.int64]:
        """Return the node of every page of the memory, as one of the processes has it."""
        return kernel.page_nodes(self.pids[which], self._address, self._n_bytes)

    def still_works(self) -> bool:
        """Whether they go on reading what they wrote."""
        before = self.said()[-1]["n_times"]
        time.sleep(1)
        return self.process.poll() is None and self.said()[-1]["n_times"] > before


def n_small_pages(pid: int, nid: int) -> int:
    """Return how many small pages a process has on a node: its interpreter's, as it placed its memory."""
    lines = Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
    words = (word for line in lines if " huge " not in line for word in line.split())
    return sum(int(word.partition("=")[2]) for word in words if word.startswith(f"N{nid}="))


@pytest.mark.parametrize("how", ["shm", "fork"])
def test_what_two_watched_processes_map_ends_near_for_both(tmp_path: Path, how: str) -> None:
    with Sharers(tmp_path, how) as sharers:
        near = Near(sharers, NEAR)
        ran = run_live(*sharers.pids, for_s=LONG_S, until=near)
        share = on_node(sharers, NEAR)
        assert (sharers.nodes(0) == sharers.nodes(1)).all()
        assert sharers.still_works()
    what = {"shm": "hot quarter of 32 MiB that two map", "fork": "the same, of a parent and its child"}[how]
    show(what, ran, share=share, after_s=near.after_s)
    assert share.hot >= ENOUGH
    assert ran.totals.moved_shared_pages >= ENOUGH * N_HOT
    assert_books_agree(ran)


def test_what_somebody_else_maps_stays_where_it_is_and_is_counted(tmp_path: Path) -> None:
    with Sharers(tmp_path, "shm") as sharers:

        def seen(totals: LiveTotals, refused: Counter[str]) -> bool:
            return totals.skipped[OTHERS] >= 3 * N_HOT

        ran = run_live(sharers.pids[0], for_s=LONG_S, until=seen)
        assert (sharers.nodes() == FAR).all()
    assert ran.totals.skipped[OTHERS] > 0
    assert ran.totals.moved_shared_pages == 0


@contextmanager
def pools(**pages: int) -> Iterator[None]:
    """Give nodes pools of huge pages until the block ends: ``n2=16``."""
    try:
        for name, n in pages.items():
            set_pool(int(name[1:]), n)
        yield
    finally:
        for name in pages:
            set_pool(int(name[1:]), 0)


def set_pool(nid: int, n_pages: int) -> None:
    """Set the pool of a node."""
    pool = Path(f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/nr_hugepages")
    pool.write_text(str(n_pages))
    assert int(pool.read_text()) == n_pages or not n_pages


def test_hugetlb_pages_go_near_as_far_as_the_pool_there_has_some(tmp_path: Path) -> None:
    grown: list[int] = []

    def near(totals: LiveTotals, refused: Counter[str]) -> bool:
        n_near = int((sharers.nodes() == NEAR).sum())
        if n_near == 2 * HUGE_PAGES and any("hugetlb pool" in reason for reason in refused) and not grown:
            grown.append(n_near)
            set_pool(NEAR, 8)
        return n_near >= 4 * HUGE_PAGES

    with pools(n2=16, n0=2), Sharers(tmp_path, "hugetlb") as sharers:
        assert (sharers.nodes() == FAR).all()
        n_small = n_small_pages(sharers.pids[0], FAR)
        ran = run_live(*sharers.pids, for_s=LONG_S, until=near)
        share = on_node(sharers, NEAR)
        assert sharers.still_works()
    note(f"hugetlb: {ran.totals.moved_hugetlb_pages:,} base pages moved, refused {ran.report.refusals}")
    assert grown == [2 * HUGE_PAGES]
    assert share.hot == 1.0
    assert ran.totals.moved_hugetlb_pages >= 4 * HUGE_PAGES
    assert ran.totals.moved_pages - ran.totals.moved_hugetlb_pages <= n_small
