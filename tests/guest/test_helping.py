"""Rules that the kernel carries out, on a real one: it moves what it should, is counted, and is put back."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gpuscan.engine.tick import TickReport
from gpuscan.history.database import History
from gpuscan.history.reading import read_notes
from gpuscan.linux.kernel_settings import DEMOTION, NUMA_BALANCING, KernelSettings, put_back_what_was_left
from gpuscan.linux.system import HERE
from gpuscan.linux.vmstat import moved_by_kernel
from gpuscan.live.stop import Stop
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import config_of
from gpuscan.service.session import ServiceSession
from guest import kernel
from guest.damon_scheme import n_kdamonds
from guest.processes import ForeignWorkload
from guest.shown import on_node

pytestmark = pytest.mark.guest

CGROUPS = Path("/sys/fs/cgroup")
OPTIONS = ("--mib", "32", "--pause-ms", "1", "--node", "2")
ENOUGH = 0.8
NUMA_HELPED = {"name": "all", "backend": "kernel"}
DAMON_HELPED = {"name": "fast", "cgroup": "gpuscan-fast", "backend": "kernel", "policy": "promote"}


class InCgroup(ForeignWorkload):
    """A workload that begins in a cgroup: memory is charged to where its process is when it is touched."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._started_by = ("sh", "-c", f'echo 0 >{CGROUPS / name}/cgroup.procs && "$@" & wait', "sh")
        super().__init__(folder, *OPTIONS)


@contextmanager
def two_cgroups() -> Iterator[None]:
    """Make two cgroups with memory of their own."""
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    with ExitStack() as stack:
        for name in ("gpuscan-fast", "gpuscan-slow"):
            (CGROUPS / name).mkdir()
            stack.callback((CGROUPS / name).rmdir)
        yield


def settings() -> tuple[str, str]:
    """Return NUMA balancing and demotion, as they are."""
    return HERE.read_text(HERE.root / NUMA_BALANCING).strip(), HERE.read_text(HERE.root / DEMOTION).strip()


def serve(folder: Path, rule: Mapping[str, str], is_done: Callable[[], bool]) -> ServiceSession:
    """Run a service with one rule until something is so; return it, ended."""
    config = config_of("test", {"service": {"monitor": "kpageflags", "cpu": "100%"}, "rule": [rule]})
    deadline = time.monotonic() + 330

    def open_inbox(stop: Stop) -> ControlSocket:
        return ControlSocket(folder / "service.sock", None, stop)

    def on_tick(_: TickReport) -> None:
        assert time.monotonic() < deadline, json.dumps(session.document(whole=True))
        if is_done():
            signal.raise_signal(signal.SIGTERM)

    with ServiceSession(
        config, lambda: config, open_inbox, open_recorder=lambda: History(folder / "history", 8 << 20)
    ) as session:
        session.run(lambda: None, on_tick)
    assert session.helping.trouble() == {}
    return session


def in_history(folder: Path) -> tuple[int, int]:
    """Return the pages that the kernel moved up and down, as the history has it."""
    notes = [note for note in read_notes(folder / "history", 0) if note["kind"] == "kernel"]
    return sum(note["promoted_pages"] for note in notes), sum(note["demoted_pages"] for note in notes)


@pytest.mark.timeout(400)
def test_numa_balancing_brings_the_hot_set_near_and_is_put_back(tmp_path: Path) -> None:
    found = settings()
    left_behind = KernelSettings(HERE)
    left_behind.set({NUMA_BALANCING: "2", DEMOTION: "true"})
    left_behind._state_file.close()  # killed
    assert put_back_what_was_left(HERE) == (NUMA_BALANCING, DEMOTION)
    assert settings() == found
    seen: list[tuple[str, str]] = []
    before = moved_by_kernel(HERE)
    (tmp_path / "w").mkdir()
    with ForeignWorkload(tmp_path / "w", *OPTIONS) as workload:

        def is_done() -> bool:
            seen.append(settings())
            return on_node(workload, 0).hot >= ENOUGH

        serve(tmp_path, NUMA_HELPED, is_done)
    assert set(seen) == {("2", "true")}
    assert settings() == found
    now = moved_by_kernel(HERE)
    promoted, demoted = in_history(tmp_path)
    assert promoted == now.promoted_pages - before.promoted_pages > 0
    assert demoted == now.demoted_pages - before.demoted_pages


@pytest.mark.timeout(400)
def test_damon_moves_the_memory_of_the_rules_cgroup_and_no_other(tmp_path: Path) -> None:
    with (
        two_cgroups(),
        InCgroup(tmp_path / "fast", "gpuscan-fast") as fast,
        InCgroup(tmp_path / "slow", "gpuscan-slow") as slow,
    ):
        before = kernel.vmstat()["pgmigrate_success"]
        serve(tmp_path, DAMON_HELPED, lambda: on_node(fast, 0).hot >= ENOUGH)
        assert n_kdamonds() == 0
        assert (slow.nodes() == 2).all()
        n_near = int((fast.nodes() == 0).sum())
    time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
    promoted, demoted = in_history(tmp_path)
    assert n_near <= promoted == kernel.vmstat()["pgmigrate_success"] - before
    assert demoted == 0
