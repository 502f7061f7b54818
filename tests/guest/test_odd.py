"""What real machines have beside plain processes, watched at once: all near, or left, and unharmed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.engine.tick import TickReport
from gpuscan.live.session import LiveRequest, LiveSession, LiveTotals
from gpuscan.live.stop import Stop
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import load_config
from gpuscan.service.session import ServiceSession
from guest import kernel
from guest.cgroups import cgroups
from guest.damon_scheme import KDAMONDS, promote_hot, switch_off
from guest.processes import Odd, eventually
from guest.session import run_live
from guest.shown import ENOUGH, note, on_node, show
from guest.test_moves import LONG_S, assert_books_agree

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

FAR, NEAR = 2, 0
KSM = Path("/sys/kernel/mm/ksm")
MEMORY = Path("/sys/devices/system/memory")
LOOKS = 3
"""Looks that find a part of a node gone, and back again."""
KINDS = {
    "plain": "plain",
    "mlocked": "mlocked",
    "execs": "exec",
    "forks": "forks",
    "in-a-pid-namespace": "pid-namespace",
    "in-a-memcg": "plain",
    "in-a-cpuset": "plain",
}
"""What each is called, and how it is started (``odd.py``)."""
SWAP = Path("/dev/ram0")
"""Not there where the guest's kernel is one's own and has no brd.ko."""
if SWAP.exists():
    KINDS["swapped"] = "plain"
SWAPPED_BYTES = 4 << 20
AT_ONCE = ("plain", "mlocked", "execs", "in-a-pid-namespace", "in-a-memcg", *({"swapped"} & KINDS.keys()))
"""Of these the hot set is near soon."""
CONFIG = """
[service]
monitor = "soft-dirty"
cpu = "100%"
batch = "1s"  # where the CPU is emulated a call for one page may take longer than 20 ms
[[rule]]
name = "odd"
cgroup = "odd/*"
policy = "promote"
"""


@contextmanager
def merging() -> Iterator[None]:
    """Have the kernel merge pages that hold the same."""
    for name, value in {"sleep_millisecs": 20, "pages_to_scan": 4096, "run": 1}.items():
        (KSM / name).write_text(str(value))
    try:
        yield
    finally:
        (KSM / "run").write_text("2")  # and takes apart what it has merged


@contextmanager
def swapping() -> Iterator[None]:
    """Have the kernel swap, to a disk of memory."""
    subprocess.run(["mkswap", str(SWAP)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", str(SWAP)], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(SWAP)], check=True)


@contextmanager
def all_odd(folder: Path) -> Iterator[dict[str, Odd]]:
    """One of each, in place."""
    with cgroups("odd", KINDS, "+memory +cpuset") as place, ExitStack() as stack:
        (place / "in-a-cpuset/cpuset.mems").write_text("2-3")
        options = ("--node", str(FAR))
        odd = {
            name: stack.enter_context(Odd(folder, name, place / name, kind, *options))
            for name, kind in KINDS.items()
        }
        for one in odd.values():
            one.until_placed()
        limited = odd["in-a-memcg"].cgroup
        (limited / "memory.max").write_text(str(int((limited / "memory.current").read_text()) + (1 << 20)))
        if SWAP.exists():
            stack.enter_context(swapping())
            with suppress(OSError):  # less was swapped out: what matters is that some was
                (odd["swapped"].cgroup / "memory.reclaim").write_text(str(SWAPPED_BYTES))
            assert kib(odd["swapped"], "VmSwap") > 1024
        yield odd


def kib(one: Odd, name: str) -> int:
    """Return a figure of a process's status."""
    return one.status(one.pid, name)[0]


def are_near(odd: dict[str, Odd], *names: str) -> bool:
    """Whether the hot sets of some are near."""
    return all(on_node(odd[name], NEAR).hot >= ENOUGH for name in names)


# Nine Pythons to start, and the service: ten minutes where the host is busy.
@pytest.mark.slow
def test_all_that_is_odd_at_once(tmp_path: Path) -> None:
    configuration = tmp_path / "service.toml"
    configuration.write_text(CONFIG)
    socket = tmp_path / "service.sock"
    events: list[str] = []
    looks: list[int] = []
    moved_by_kernel: list[int] = []

    def open_inbox(stop: Stop) -> ControlSocket:
        return ControlSocket(socket, None, stop)

    def on_tick(_: TickReport) -> None:
        assert time.monotonic() < deadline, json.dumps(session.document(whole=True))
        if not events and are_near(odd, *AT_ONCE):
            events.append("near")
            assert (odd["in-a-cpuset"].nodes() == FAR).all()
            with pytest.raises(InputError, match="another service listens"):
                open_inbox(Stop())
            (odd["in-a-cpuset"].cgroup / "cpuset.mems").write_text("0-3")
            execute_another(odd["execs"])
        elif events == ["near"] and are_near(odd, "in-a-cpuset", "execs"):
            counted = kernel.vmstat()["pgmigrate_success"]
            events.append(take_offline(FAR))
            moved_by_kernel.append(kernel.vmstat()["pgmigrate_success"] - counted)
            looks.append(session.totals.n_ticks)
        elif len(events) == 2 and session.totals.n_ticks >= looks[-1] + LOOKS:
            events.append("online")
            (MEMORY / events[1] / "state").write_text("online")
            looks.append(session.totals.n_ticks)
        elif len(events) == 3 and session.totals.n_ticks >= looks[-1] + LOOKS:
            signal.raise_signal(signal.SIGTERM)

    with all_odd(tmp_path) as odd:
        deadline = time.monotonic() + 600
        before, others = kernel.vmstat()["pgmigrate_success"], kernel.other_moves()
        config = load_config(configuration)
        with ServiceSession(config, lambda: config, open_inbox) as session:
            session.run(lambda: None, on_tick)
            refused = session.governor.policies["odd"].refused
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        moved, after = kernel.vmstat()["pgmigrate_success"] - before, kernel.other_moves()
        assert kib(odd["mlocked"], "VmLck") == 8 << 10
        swapped_kib = kib(odd["swapped"], "VmSwap") if "swapped" in odd else None
        assert "oom 0" in (odd["in-a-memcg"].cgroup / "memory.events").read_text()
        for one in odd.values():
            one.end_checked()
    note(f"odd ones: {moved:,} pages moved, refused {dict(refused)}")
    note(f"  {swapped_kib} KiB swapped out, {events[1]} of node {FAR} gone meanwhile")
    assert len(events) == 3
    assert after == others, "others moved pages as well"
    assert session.totals.moved_pages == moved - moved_by_kernel[0]


def take_offline(nid: int) -> str:
    """Take a block of a node's memory away, and return its name; the kernel moves what lies there."""
    for place in sorted(Path(f"/sys/devices/system/node/node{nid}").glob("memory[0-9]*")):
        with suppress(OSError):  # the kernel has pages of its own in most of them
            (MEMORY / place.name / "state").write_text("offline")
            return place.name
    raise AssertionError(f"no block of node {nid} can be taken away")


def execute_another(one: Odd) -> None:
    """Have a process execute a program, whose memory is far again."""
    n_said = len(one.said())
    os.kill(one.pid, signal.SIGUSR1)
    eventually(lambda: len(one.said()) > n_said, "it executes a program", 60)
    assert on_node(one, NEAR).hot == 0


def test_damon_goes_on_where_a_program_executes_another_and_pages_are_merged(tmp_path: Path) -> None:
    executed: list[int] = []

    def until(totals: LiveTotals, _: Counter[str]) -> bool:
        if on_node(execs, NEAR).hot < ENOUGH:
            return False
        if not executed:
            executed.append(totals.n_ticks)
            with pytest.raises(InputError, match="another gpuscan"):
                LiveSession(LiveRequest(pids=(merged.pid,), monitor="damon", device="cpu"))
            execute_another(execs)
            return False
        return True

    with cgroups("odd", ["execs", "merged"]) as place, merging():
        execs = Odd(tmp_path, "execs", place / "execs", "exec", "--node", str(FAR))
        merged = Odd(tmp_path, "merged", place / "merged", "merged", "--node", str(FAR))
        for one in (execs, merged):
            one.until_placed()
        eventually(lambda: int((KSM / "pages_sharing").read_text()) > 1024, "pages are merged")
        ran = run_live(execs.pid, merged.pid, for_s=LONG_S, monitor="damon", until=until)
        share = on_node(merged, NEAR)
        for one in (execs, merged):
            one.end_checked()
    show("executes another program, beside merged pages", ran, share=share)
    assert executed
    assert ran.totals.end_reason == "interrupted"
    assert_books_agree(ran)


def test_damon_that_somebody_else_has_stays_theirs(tmp_path: Path) -> None:
    with cgroups("odd", ["plain"]) as place, Odd(tmp_path, "plain", place / "plain", "plain") as watched:
        watched.until_placed()
        try:
            kdamond = promote_hot((3,), 1, min_accesses=20)
            before = configured()
            with pytest.raises(InputError, match="DAMON is taken"):
                LiveSession(LiveRequest(pids=(watched.pid,), monitor="damon", device="cpu"))
            with LiveSession(LiveRequest(pids=(watched.pid,), device="cpu", dry_run=True)) as session:
                assert not session.monitor.name.startswith("damon")
            assert configured() == before
            assert Path(f"/proc/{kdamond}").exists()
        finally:
            switch_off()
        watched.end_checked()


def configured() -> dict[str, str]:
    """Return what DAMON's files say of how it is set up."""
    files = (path for path in KDAMONDS.rglob("*") if path.is_file() and path.stat().st_mode & 0o200)
    return {str(path): path.read_text() for path in files if path.stat().st_mode & 0o400}
