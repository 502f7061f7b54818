"""``gpuscan service`` itself: rules on cgroups, orders, a reload, kill -9 and the start after it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuscan.service.client import ask
from gpuscan.service.history import read_notes
from guest import kernel
from guest.damon_scheme import n_kdamonds
from guest.processes import Program, Workload, eventually

# Two starts of it take over five minutes where the CPU is emulated: make soak-live runs it.
pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(1200)]

CGROUPS = Path("/sys/fs/cgroup")
N_HOT = 4096
"""Hot pages of a workload of 64 MiB."""
CONFIG = """
[service]
monitor = "damon"
cpu = "100%"
[[rule]]
name = "fast"
cgroup = "gpuscan-fast"
policy = "promote"
[[rule]]
name = "slow"
cgroup = "gpuscan-slow"
policy = "{slow}"
"""


class Service(Program):
    """``gpuscan service``, its monitor on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.socket, self.history = folder / "service.sock", folder / "history.sqlite"
        where = ("--socket", str(self.socket), "--history", str(self.history))
        command = [sys.executable, "-m", "gpuscan", "service", str(folder / "service.toml"), *where]
        super().__init__(command, folder, name)
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


def test_a_service_goes_by_its_rules_through_reload_and_kill(tmp_path: Path) -> None:
    configuration = tmp_path / "service.toml"
    configuration.write_text(CONFIG.format(slow="off"))
    options = ("--mib", "64", "--pause-ms", "1", "--node", "2")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        Workload(tmp_path / "a", *options) as fast,
        Workload(tmp_path / "b", *options) as slow,
        in_cgroup("gpuscan-fast", fast.pid),
        in_cgroup("gpuscan-slow", slow.pid),
    ):
        before = kernel.vmstat()["pgmigrate_success"]
        with Service(tmp_path, "first") as service:
            eventually(lambda: service.policy("fast")["promoted_pages"] >= N_HOT, "the hot set is near", 180)
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
            eventually(lambda: service.policy("slow")["promoted_pages"] >= N_HOT, "the others are near", 180)
            assert service.policy("fast")["promoted_pages"] >= N_HOT  # counted on through the reload

            service.ctl("pause")
            eventually(lambda: service.ctl("status")["n_processes"] == 0, "it rests", 60)
            service.ctl("resume")
            service.kill()
        eventually(lambda: n_kdamonds() == 0, "the watchdog has cleaned up", 60)
        with Service(tmp_path, "second") as service:
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
