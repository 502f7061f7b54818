"""``gpuscan service`` itself: rules on cgroups, orders, a reload, kill -9 and the start after it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuscan.engine.tick import TickReport
from gpuscan.history.database import History
from gpuscan.history.reading import read_notes
from gpuscan.live.stop import Stop
from gpuscan.service.client import ask
from gpuscan.service.config import Config
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import load_config
from gpuscan.service.session import ServiceSession
from guest import kernel
from guest.damon_scheme import n_kdamonds
from guest.processes import ForeignWorkload, Program, Workload, eventually
from guest.shown import ENOUGH, on_node

pytestmark = pytest.mark.guest

CGROUPS = Path("/sys/fs/cgroup")
MIB = 32
N_HOT = MIB * 256 // 4
"""Hot pages of a workload."""
OPTIONS = ("--mib", str(MIB), "--pause-ms", "1", "--node", "2")
KEPT_WRITABLE = ("/sys/kernel/mm/damon", "/sys/kernel/mm/page_idle", "/sys/kernel/tracing")
"""What the unit leaves writable of what ProtectKernelTunables= makes read-only."""
TUNABLES = ("/sys", "/proc/sys", "/proc/irq", "/proc/fs", "/proc/sysrq-trigger")
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


def with_tunables_protected(command: list[str]) -> list[str]:
    """Return a command line that runs another as systemd does under ProtectKernelTunables=.

    As apply_mount_namespace() (src/core/namespace.c, v252) has it: what may be written becomes a mount of its
    own, and what holds it is mounted read-only again.
    """
    lines = ["set -e", "mount --make-rprivate /"]
    lines += [f"[ ! -e {path} ] || mount --bind {path} {path}" for path in (*KEPT_WRITABLE, *TUNABLES[1:])]
    lines += [f"[ ! -e {path} ] || mount -o remount,bind,ro {path}" for path in TUNABLES]
    return ["unshare", "--mount", "sh", "-c", "; ".join([*lines, 'exec "$@"']), "sh", *command]


class Service(Program):
    """``gpuscan service``, its monitor on."""

    def __init__(self, folder: Path, name: str, *, is_confined: bool = False) -> None:
        self.socket, self.history = folder / "service.sock", folder / "history.sqlite"
        where = ("--socket", str(self.socket), "--history", str(self.history))
        command = [sys.executable, "-m", "gpuscan", "service", str(folder / "service.toml"), *where]
        super().__init__(with_tunables_protected(command) if is_confined else command, folder, name)
        eventually(lambda: "running, " in self.complaints(), "the service runs", 300)

    def ctl(self, order: str, nid: int | None = None) -> dict[str, Any]:
        """Give an order and return the answer, as ``gpuscan ctl`` does, without another Python."""
        return ask(self.socket, order, nid)

    def policy(self, name: str) -> dict[str, Any]:
        """Return the status of a rule's policy."""
        return next(one for one in self.ctl("status")["policies"] if one["name"] == name)


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


# Two starts of it take minutes where the CPU is emulated: make soak-live runs it.
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_service_goes_by_its_rules_through_reload_and_kill(tmp_path: Path) -> None:
    configuration = tmp_path / "service.toml"
    configuration.write_text(CONFIG.format(slow="off"))
    with two_workloads(tmp_path) as (fast, slow):
        before = kernel.vmstat()["pgmigrate_success"]
        with Service(tmp_path, "first") as service:
            eventually(lambda: on_node(fast, 0).hot >= ENOUGH, "the hot set is near", 180)
            status = service.ctl("status")
            moved = sum(sum(one["moved_pages_to"].values()) for one in status["policies"])
            assert [one["n_processes"] for one in status["policies"]] == [1, 0]
            assert (slow.nodes() == 2).all()
            assert moved <= kernel.vmstat()["pgmigrate_success"] - before

            configuration.write_text("[service]\nmoniter = 1\n")
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda: "moniter" in service.ctl("status")["problem"], "it refuses nonsense", 60)
            configuration.write_text(CONFIG.format(slow="promote"))
            assert service.ctl("reload")["problem"] == ""
            eventually(lambda: on_node(slow, 0).hot >= ENOUGH, "the others are near", 180)
            assert service.policy("fast")["promoted_pages"] >= ENOUGH * N_HOT  # counted on through the reload

            service.ctl("pause")
            eventually(lambda: service.ctl("status")["n_processes"] == 0, "it rests", 60)
            service.ctl("resume")
            service.kill()
        eventually(lambda: n_kdamonds() == 0, "the watchdog has cleaned up", 60)
        with Service(tmp_path, "second", is_confined=True) as service:
            assert service.ctl("drain", 0)["nodes"][0]["draining"]
            eventually(
                lambda: (fast.nodes() != 0).all() and (slow.nodes() != 0).all(), "node 0 is empty", 240
            )
            service.process.send_signal(signal.SIGTERM)
            assert service.end(120) == 0
    assert n_kdamonds() == 0
    assert not service.socket.exists()
    kinds = [note["kind"] for note in read_notes(service.history, 0)]
    assert kinds.count("start") == 2
    assert {"config", "control", "moved", "process", "rest", "stop"} <= set(kinds)
