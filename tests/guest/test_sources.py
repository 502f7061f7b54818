"""Every other source, demotion, a cgroup, a command: mostly on one process, put where each test needs it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.live.session import LiveRequest, LiveSession, LiveTotals
from guest import kernel
from guest.damon_scheme import who_watches
from guest.processes import HERE, Program, Workload
from guest.session import run_live
from guest.shown import ENOUGH, Near, Placed, Share, on_node, show
from guest.test_moves import FAR, LONG_S, NEAR, PAUSE, assert_books_agree

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workload]:
    with Workload(tmp_path_factory.mktemp("workload"), *PAUSE, "--mib", "64", "--node", str(FAR)) as running:
        yield running


def put(workload: Workload, *, hot: int, cold: int) -> None:
    """Bring the hot and the other pages of a workload to a node each."""
    lo, hi = workload.hot()
    address, n_bytes = workload.address, workload.n_bytes
    for start, end, nid in ((0, lo, cold), (lo, hi, hot), (hi, n_bytes, cold)):
        kernel.place(workload.pid, address + start, end - start, nid)


def test_soft_dirty_moves_the_written_pages_and_no_other(workload: Workload) -> None:
    put(workload, hot=FAR, cold=FAR)
    near = Near(workload, NEAR, share=1.0)
    ran = run_live(workload.pid, for_s=LONG_S, monitor="soft-dirty", until=near)
    share = on_node(workload, NEAR)
    show("hot quarter of 64 MiB", ran, source="soft-dirty", share=share, after_s=near.after_s)
    assert share == Share(1.0, 0)
    assert_books_agree(ran)


def test_damon_on_physical_memory(workload: Workload) -> None:
    put(workload, hot=FAR, cold=FAR)
    near = Near(workload, NEAR)
    ran = run_live(workload.pid, for_s=LONG_S, monitor="damon-paddr", until=near)
    share = on_node(workload, NEAR)
    show("hot quarter of 64 MiB", ran, source="damon-paddr", share=share, after_s=near.after_s)
    assert share.hot >= ENOUGH
    # Its regions are of the machine's 2 GiB, 5 MiB each to begin with: it takes some of what lies beside. To
    # move without looking would be to take three cold pages with each hot one.
    assert share.n_cold <= 0.25 * ran.totals.moved_pages
    assert_books_agree(ran)


def test_kpageflags_finds_what_was_read_through_the_file(tmp_path: Path) -> None:
    # Without reclaim only folio_mark_accessed() sets REFERENCED, as read(2) does; an access to mapped memory
    # does not, and at anonymous memory reclaim does not look where there is no swap.
    path = tmp_path / "mapped"
    command = [sys.executable, str(HERE / "mapped_file.py"), str(path), "--node", str(FAR)]
    with Program(command, tmp_path, "mapped-file") as holder:
        place = holder.wait_for(lambda line: "address" in line, 60)
        address, n_bytes = place["address"], place["n_bytes"]
        hot = np.zeros(n_bytes // PAGE_BYTES, dtype=np.bool_)
        hot[hot.size // 4 : hot.size // 2] = True
        with path.open("rb", buffering=0) as file:
            for _ in range(2):
                file.seek(int(hot.argmax()) * PAGE_BYTES)
                assert len(file.read(int(hot.sum()) * PAGE_BYTES)) == int(hot.sum()) * PAGE_BYTES

        def near() -> NDArray[np.bool_]:
            return kernel.page_nodes(holder.pid, address, n_bytes) == NEAR

        assert not near().any()
        ran = run_live(
            holder.pid, for_s=LONG_S, monitor="kpageflags", until=lambda *_: bool(near()[hot].all())
        )
        share = Share(float(near()[hot].mean()), int(near()[~hot].sum()))
    show("a quarter of a 32 MiB file, read", ran, source="kpageflags", share=share)
    assert share == Share(1.0, 0)
    assert_books_agree(ran)


@pytest.mark.parametrize("source", ["damon", "soft-dirty"])
def test_cold_pages_go_down_and_hot_ones_up(workload: Workload, source: str) -> None:
    put(workload, hot=FAR, cold=NEAR)
    n_hot = workload.n_bytes // PAGE_BYTES // 4
    n_cold = 3 * n_hot

    def exchanged(*_: object) -> bool:
        near = on_node(workload, NEAR)
        return near.hot >= ENOUGH and near.n_cold <= (1 - ENOUGH) * n_cold

    ran = run_live(
        workload.pid, for_s=LONG_S, monitor=source, demote=True, cold_after_ns=2_000_000_000, until=exchanged
    )
    near, far = on_node(workload, NEAR), on_node(workload, FAR)
    show("hot pages far, cold ones near, --demote", ran, source=source, share=near)
    assert near.hot >= ENOUGH
    assert near.n_cold <= (1 - ENOUGH) * n_cold
    assert far.n_cold + near.n_cold == n_cold, "no page went anywhere else"
    moved_to = ran.totals.moved_to
    assert moved_to[NEAR] >= ENOUGH * n_hot
    assert moved_to[FAR] >= ENOUGH * n_cold
    assert moved_to.total() == ran.totals.moved_pages
    assert_books_agree(ran)


def test_what_joins_a_cgroup_is_moved_and_what_is_outside_is_not(workload: Workload) -> None:
    put(workload, hot=FAR, cold=FAR)
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    group, below = CGROUPS / "gpuscan", CGROUPS / "gpuscan/below"
    below.mkdir(parents=True)
    near = Near(workload, NEAR)
    outside_ticks: list[float] = []
    joined_s: list[float] = []

    def until(totals: LiveTotals, refused: Counter[str]) -> bool:
        if len(outside_ticks) < 10:
            outside_ticks.append(on_node(workload, NEAR).hot)
            if len(outside_ticks) == 10:
                (below / "cgroup.procs").write_text(str(workload.pid))
                joined_s.append(totals.elapsed_ns / 1e9)
            return False
        return near(totals, refused)

    sleeper = subprocess.Popen(["sleep", "3600"])
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        ran = run_live(for_s=LONG_S, cgroup=Path("gpuscan"), until=until)
        share = on_node(workload, NEAR)
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(workload.pid))
        sleeper.kill()
        sleeper.wait()
        below.rmdir()
        group.rmdir()
    assert outside_ticks == [0.0] * 10
    assert share.hot >= ENOUGH
    assert near.after_s is not None
    show("joins a --cgroup meanwhile, from then on", ran, share=share, after_s=near.after_s - joined_s[0])
    assert_books_agree(ran)


def test_a_newcomer_leaves_the_kdamond_of_another_running(workload: Workload) -> None:
    put(workload, hot=FAR, cold=FAR)
    seen: list[dict[int, int]] = []
    comes: list[subprocess.Popen[bytes]] = []

    def until(*_: object) -> bool:
        seen.append(who_watches())
        is_near = on_node(workload, NEAR).hot >= ENOUGH
        if is_near and not comes:
            comes.append(subprocess.Popen(["sleep", "3600"]))
            (group / "cgroup.procs").write_text(str(comes[0].pid))
        elif comes and comes[0].pid in seen[-1] and not any(comes[0].pid in each for each in seen[:-1]):
            put(workload, hot=FAR, cold=FAR)  # what it finds must go on to move
            return False
        return is_near and bool(comes) and comes[0].pid in seen[-1]

    with cgroup_of(workload, "gpuscan-newcomer") as group:
        try:
            ran = run_live(for_s=LONG_S, cgroup=Path(group.name), monitor="damon", until=until)
        finally:
            for each in comes:
                each.kill()
                each.wait()
    show("a newcomer, and hot pages are far again", ran, share=on_node(workload, NEAR))
    assert on_node(workload, NEAR).hot >= ENOUGH
    assert ran.totals.moved_pages >= 2 * ENOUGH * workload.n_bytes // PAGE_BYTES // 4
    assert {each[workload.pid] for each in seen} == {seen[0][workload.pid]}
    assert set(seen[-1]) == {workload.pid, comes[0].pid}
    assert ran.disagreements == []  # in all the kernel counts what the test moved, too


@contextlib.contextmanager
def cgroup_of(workload: Workload, name: str) -> Iterator[Path]:
    """Make a cgroup with the workload in it, and remove it when all others in it have ended."""
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    group = CGROUPS / name
    group.mkdir()
    (group / "cgroup.procs").write_text(str(workload.pid))
    try:
        yield group
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(workload.pid))
        group.rmdir()


def test_cold_pages_go_down_though_newcomers_come(workload: Workload) -> None:
    put(workload, hot=NEAR, cold=NEAR)
    n_cold = workload.n_bytes // PAGE_BYTES * 3 // 4
    newcomers: list[subprocess.Popen[bytes]] = []
    came_s = [0.0]
    kdamonds: set[int] = set()

    def until(*_: object) -> bool:
        kdamonds.add(who_watches()[workload.pid])
        if time.monotonic() - came_s[0] > 1.0:
            came_s[0] = time.monotonic()
            newcomers.append(subprocess.Popen(["sleep", "3600"]))
            (group / "cgroup.procs").write_text(str(newcomers[-1].pid))
            for gone in newcomers[-2:-1]:
                gone.kill()
                gone.wait()
        return on_node(workload, NEAR).n_cold <= (1 - ENOUGH) * n_cold

    with cgroup_of(workload, "gpuscan-churn") as group:
        try:
            ran = run_live(
                for_s=LONG_S,
                cgroup=Path(group.name),
                monitor="damon",
                demote=True,
                cold_after_ns=4_000_000_000,
                until=until,
            )
        finally:
            newcomers[-1].kill()
            newcomers[-1].wait()
    near = on_node(workload, NEAR)
    show(f"cold pages near, {len(newcomers)} newcomers, --demote", ran, share=near)
    assert near.n_cold <= (1 - ENOUGH) * n_cold
    assert near.hot >= ENOUGH
    assert len(kdamonds) == 1
    assert_books_agree(ran)


class Started:
    """A workload that gpuscan starts: known by what it prints into a file."""

    def __init__(self, said: Path) -> None:
        self._said = said

    def _lines(self) -> list[dict[str, Any]]:
        text = self._said.read_text() if self._said.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def is_placed(self) -> bool:
        """Whether its memory is in place, and it touches it."""
        return len(self._lines()) > 1

    def hot(self) -> tuple[int, int]:
        """See :class:`live.processes.Workload`."""
        lo, hi = self._lines()[-1]["hot"]
        return lo, hi

    def nodes(self) -> NDArray[np.int64]:
        """See :class:`live.processes.Workload`."""
        first = self._lines()[0]
        return kernel.page_nodes(first["pid"], first["address"], first["n_bytes"])


def test_the_writes_of_a_command(tmp_path: Path) -> None:
    said = tmp_path / "said"
    shell = ["sh", "-c", f'exec "$0" "$@" >{said}', sys.executable, str(HERE / "workload.py")]
    started: Placed = Started(said)
    shares: list[Share] = []
    placed_s: list[float] = []
    reached_s: list[float] = []

    def until(totals: LiveTotals, _: object) -> bool:
        if not Started(said).is_placed():
            return False
        placed_s.append(totals.elapsed_ns / 1e9)
        shares.append(on_node(started, NEAR))
        if shares[-1].hot == 1.0:
            reached_s.append(totals.elapsed_ns / 1e9)
        return len(reached_s) > 10

    ran = run_live(
        for_s=LONG_S,
        monitor="written",
        command=(*shell, *PAUSE, "--mib", "64", "--node", str(FAR)),
        until=until,
    )
    assert shares[-1] == Share(1.0, 0)
    after_s = reached_s[0] - placed_s[0]
    show("a command's, from when it is in place", ran, source="written", share=shares[-1], after_s=after_s)
    assert ran.totals.end_reason == "interrupted"
    assert not Path(f"/proc/{Started(said)._lines()[0]['pid']}").exists(), "it ended with the run"
    assert_books_agree(ran)


def test_idle_page_tracking_is_refused_in_one_sentence(workload: Workload) -> None:
    with pytest.raises(InputError) as refused:
        LiveSession(LiveRequest(pids=(workload.pid,), monitor="idle", device="cpu"))
    assert str(refused.value) == (
        "/sys/kernel/mm/page_idle/bitmap is not there: the kernel has no CONFIG_IDLE_PAGE_TRACKING; "
        "take another --monitor"
    )
