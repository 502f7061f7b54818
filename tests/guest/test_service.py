"""``gpuscan service`` in the process of the test: rules on cgroups, and a reload."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuscan.engine.tick import TickReport
from gpuscan.history.database import History
from gpuscan.history.reading import read_notes
from gpuscan.live.stop import Stop
from gpuscan.service.config import Config
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import load_config
from gpuscan.service.session import ServiceSession
from guest import kernel
from guest.processes import ForeignWorkload, Workload
from guest.shown import ENOUGH, on_node

pytestmark = pytest.mark.guest

CGROUPS = Path("/sys/fs/cgroup")
MIB = 32
N_HOT = MIB * 256 // 4
"""Hot pages of a workload."""
OPTIONS = ("--mib", str(MIB), "--pause-ms", "1", "--node", "2")
CONFIG = """
[service]
monitor = "damon"
cpu = "100%"
batch = "1s"  # where the CPU is emulated a call for one page may take longer than 20 ms
[[rule]]
name = "fast"
cgroup = "gpuscan-fast"
policy = "promote"
[[rule]]
name = "slow"
cgroup = "gpuscan-slow"
policy = "{slow}"
"""


@contextmanager
def in_cgroup(name: str, pid: int) -> Iterator[None]:
    """Put a process into a cgroup of its own until the block ends."""
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    place = CGROUPS / name
    place.mkdir(exist_ok=True)
    (place / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(pid))
        place.rmdir()


@contextmanager
def two_workloads(folder: Path) -> Iterator[tuple[Workload, Workload]]:
    """Start two processes on node 2, each in a cgroup that a rule of ``CONFIG`` is for."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    with (
        ForeignWorkload(folder / "a", *OPTIONS) as fast,
        ForeignWorkload(folder / "b", *OPTIONS) as slow,
        in_cgroup("gpuscan-fast", fast.pid),
        in_cgroup("gpuscan-slow", slow.pid),
    ):
        yield fast, slow


@pytest.mark.timeout(400)
def test_rules_choose_who_moves_until_a_reload_chooses_others(tmp_path: Path) -> None:
    """In this process: another Python takes a minute to start here."""
    configuration, history = tmp_path / "service.toml", tmp_path / "history.sqlite"
    configuration.write_text(CONFIG.format(slow="off"))

    def load() -> Config:
        return load_config(configuration)

    def open_inbox(stop: Stop) -> ControlSocket:
        return ControlSocket(tmp_path / "service.sock", None, stop)

    before_reload: list[bool] = []
    deadline = time.monotonic() + 330

    def on_tick(_: TickReport) -> None:
        assert time.monotonic() < deadline, json.dumps(session.document(whole=True))
        if not before_reload:
            if on_node(fast, 0).hot >= ENOUGH:
                before_reload.append(bool((slow.nodes() == 2).all()))
                configuration.write_text(CONFIG.format(slow="promote"))
                signal.raise_signal(signal.SIGHUP)
        elif on_node(slow, 0).hot >= ENOUGH:
            signal.raise_signal(signal.SIGTERM)

    with two_workloads(tmp_path) as (fast, slow):
        before = kernel.vmstat()["pgmigrate_success"]
        with ServiceSession(
            load(), load, open_inbox, open_recorder=lambda: History(history, 8 << 20)
        ) as session:
            session.run(lambda: None, on_tick)
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        moved = kernel.vmstat()["pgmigrate_success"] - before
    assert before_reload == [True]
    assert session.totals.moved_pages == moved >= 2 * ENOUGH * N_HOT
    noted = [note for note in read_notes(history, 0) if note["kind"] == "moved"]
    assert sum(sum(note["moved_pages_to"].values()) for note in noted) == moved
