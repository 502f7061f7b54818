"""Who is watched, what is refused before anything starts, and whole dry runs on processes of this machine."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuscan.base import allocator
from gpuscan.base.addresses import parse_address
from gpuscan.base.errors import InputError
from gpuscan.cli.job import print_requests
from gpuscan.cli.main import main
from gpuscan.cli.output import Output
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.linux import capabilities, resident
from gpuscan.linux.address_map import AddressMap
from gpuscan.linux.numa import read_allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, Pages, pages_in, resident_by_nid
from gpuscan.linux.system import System
from gpuscan.live import members
from gpuscan.live import session as live_session
from gpuscan.live.capture import capture_processes
from gpuscan.live.members import Cgroup, Command, Pids, Roster
from gpuscan.live.metrics import Exporter
from gpuscan.live.session import LiveRequest, LiveSession, LiveTotals
from gpuscan.live.stop import Stop
from gpuscan.migrate.move_pages import DRY_RUN, DryRunMigrator
from gpuscan.monitors.catalogue import open_monitor
from gpuscan.monitors.contract import Circumstances
from gpuscan.monitors.touched import mapped
from gpuscan.records.page_flags import Kpf, bits
from gpuscan.records.page_map import Extent, PageMap
from gpuscan.topology.sysfs import read_host

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="page frame numbers are root's to see")
SLEEP = "import time; time.sleep(600)"


def test_a_cgroup_and_those_below_it(tmp_path):
    group = tmp_path / "sys/fs/cgroup/jobs"
    (group / "one").mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"12\n{os.getpid()}\n")
    (group / "one/cgroup.procs").write_text("13\n12\n")
    assert Cgroup(Path("jobs"), System(tmp_path)).pids() == [12, 13]
    with pytest.raises(InputError, match="is no cgroup"):
        Cgroup(Path("none"), System(tmp_path))


def test_a_command_and_its_children_until_it_is_ended():
    command = Command(["sh", "-c", f"{sys.executable} -c '{SLEEP}' & {sys.executable} -c '{SLEEP}'; exit 3"])
    try:
        roster = Roster(command)
        for _ in range(2000):
            roster.refresh()
            if len(roster.alive()) == 3:
                break
        assert len(roster.alive()) == 3
        assert len({number for number, _ in roster.alive()}) == 3
        for _, process in roster.alive()[1:]:
            os.kill(process.pid, 9)
        roster.close()
    finally:
        assert command.end() in (3, -15)


def test_the_pid_of_a_command_that_ended_means_nobody():
    command = Command(["true"])
    command._popen.wait()
    assert command.pids() == []
    assert command.end() == 0


def test_what_a_command_left_running_stays_on_the_roster():
    command = Command(["sh", "-c", "sleep 60 & exec sleep 60"])
    roster = Roster(command)
    try:
        for _ in range(2000):
            roster.refresh()
            if len(roster.alive()) == 2:
                break
        (_, shell), (number, child) = roster.alive()
        os.kill(shell.pid, 9)
        command._popen.wait()
        assert roster.refresh()
        assert roster.alive() == [(number, child)]
        assert list(roster.processes) == [number]
        assert shell._pidfd == -1
        assert not roster.refresh()
        os.kill(child.pid, 9)
    finally:
        command.end()
        roster.close()


def test_a_process_that_was_named_is_taken_off_when_it_has_ended():
    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as second:
        roster = Roster(Pids([first.pid, second.pid]))
        assert not roster.refresh()
        first.kill()
        first.wait()
        assert roster.refresh()
        assert [(number, process.pid) for number, process in roster.processes.items()] == [(1, second.pid)]
        assert not roster.refresh()
        roster.close()
        second.kill()


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_what_a_command_started_is_ended_with_it(monkeypatch, trap):
    monkeypatch.setattr(members, "END_WITHIN_S", 0.5)
    command = Command(["sh", "-c", f"{trap}sleep 60 & exec sleep 60"])
    roster = Roster(command)
    for _ in range(2000):
        roster.refresh()
        if len(roster.alive()) == 2:
            break
    (_, _), (_, child) = roster.alive()
    code = command.end([process for _, process in roster.alive()])
    assert code == (-signal.SIGKILL if trap else -signal.SIGTERM)
    assert child.wait(20)
    roster.close()


def test_a_second_interrupt_does_not_leave_the_command_behind(monkeypatch):
    command = Command(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    wait = command._popen.wait

    def interrupted(timeout=None):
        if timeout is not None:
            raise KeyboardInterrupt
        return wait()

    monkeypatch.setattr(command._popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.end()
    assert command.exit_code() is not None


def test_a_descendant_that_may_not_be_signalled_keeps_nobody_else_alive(monkeypatch, tmp_path):
    monkeypatch.setattr(members, "END_WITHIN_S", 0.2)
    heeds_not = tmp_path / "heeds_not"
    command = Command(["sh", "-c", f"trap '' TERM; : > {heeds_not}; while :; do sleep 0.1; done"])
    while not heeds_not.exists():
        time.sleep(0.01)
    other = subprocess.Popen([sys.executable, "-c", SLEEP])

    def refused(signum):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    waiting = {"wait": lambda limit_s: False}
    foreign: Any = SimpleNamespace(pid=-1, send_signal=refused, **waiting)
    own: Any = SimpleNamespace(pid=other.pid, send_signal=other.send_signal, **waiting)
    with pytest.raises(PermissionError):
        command.end([foreign, own])
    assert command.exit_code() == -signal.SIGKILL
    assert other.wait(10) == -signal.SIGTERM


def test_a_command_that_is_not_there():
    with pytest.raises(InputError, match="cannot be started"):
        Command(["/no/such/command"])


def test_a_process_that_was_named_must_be_there():
    with pytest.raises(InputError):
        Roster(Pids([os.getpid()]))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (LiveRequest(), "say which processes"),
        (LiveRequest(pids=(1,), command=("true",)), "give only one of --pid, --cgroup and -- COMMAND"),
        (LiveRequest(pids=(1,), cgroup=Path("x")), "give only one of"),
    ],
)
def test_one_way_to_say_which_processes(request_, said):
    with pytest.raises(InputError, match=said):
        LiveSession(request_)


def test_missing_capabilities_are_named_with_what_they_are_for(tmp_path, monkeypatch):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("CapEff:\t0000000000000000\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError) as refused:
        capabilities.check_live(foreign=True, system=System(tmp_path))
    text = str(refused.value)
    assert "CAP_SYS_ADMIN (to see the page frame numbers" in text
    assert "CAP_SYS_PTRACE (to read another user's process and to move its pages)" in text
    (tmp_path / "proc/self/status").write_text("CapEff:\t0000000000280002\n")
    capabilities.check_live(foreign=True, system=System(tmp_path))


@pytest.mark.parametrize("n_bytes", [0, 1 << 20])
def test_masked_page_flags_are_told(tmp_path, monkeypatch, sleeper, n_bytes):
    """Container runtimes put /dev/null over the file; others show zeros."""
    (tmp_path / "kpageflags").write_bytes(bytes(n_bytes))

    def masked(path, system):
        return PageFlags(tmp_path / "kpageflags", system)

    monkeypatch.setattr("gpuscan.live.session.PageFlags", masked)
    monkeypatch.setattr("gpuscan.live.capture.PageFlags", masked)
    says = r"kpageflags shows no flag of any page: it is masked.*on the host itself"
    request = LiveRequest(pids=(sleeper.pid,), monitor="kpageflags", dry_run=True, device="cpu")
    with pytest.raises(InputError, match=says), LiveSession(request):
        pass
    with pytest.raises(InputError, match=says):
        capture_processes((sleeper.pid,), 10**9)


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(tmp_path):
    # An empty /sys: no DAMON, no idle page tracking.
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kpageflags").write_bytes(b"")
    monitor, refused = open_monitor("auto", Circumstances(read_host().topology, 1, system=System(tmp_path)))
    monitor.close()
    assert monitor.name in ("soft-dirty", "kpageflags")
    assert [text.partition(":")[0] for text in refused][:3] == ["damon", "damon-paddr", "idle"]
    with pytest.raises(InputError, match="CONFIG_IDLE_PAGE_TRACKING"):
        open_monitor("idle", Circumstances(read_host().topology, 1, system=System(tmp_path)))


def run(capsys, *arguments):
    code = main(["live", "--device", "cpu", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def started_live(*arguments):
    """Start ``gpuscan live`` as a process of its own."""
    command = [sys.executable, "-m", "gpuscan", "live", "--device", "cpu", "--dry-run"]
    return subprocess.Popen(
        [*command, "--monitor", "kpageflags", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def sleeper():
    code = f"print(flush=True); {SLEEP}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a Python that still starts takes new memory meanwhile
        yield process
        process.kill()


@needs_root
def test_json_lines_of_a_dry_run(capsys, sleeper, monkeypatch):
    kept = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: kept.append(True))
    code, out, _ = run(
        capsys, "--json", "--dry-run", "--monitor", "kpageflags", "--for", "300ms", "--pid", str(sleeper.pid)
    )
    assert (code, kept) == (0, [True])
    first, *ticks, last = [json.loads(line) for line in out.splitlines()]
    assert (first["schema"], first["event"], first["source"]) == (1, "start", "kpageflags")
    assert first["processes"][0]["pid"] == sleeper.pid
    assert ticks
    assert {tick["event"] for tick in ticks} == {"tick"}
    assert [tick["tick"] for tick in ticks] == list(range(len(ticks)))
    assert sum(first["resident_pages"].values()) > 100
    assert (last["event"], last["reason"], last["moved_pages"]) == ("end", "time is over", 0)
    assert last["t_s"] >= 0.3
    assert sleeper.poll() is None


@needs_root
def test_a_command_is_started_watched_and_its_end_ends_the_run(capsys):
    code, out, err = run(
        capsys, "--json", "--dry-run", "--monitor", "kpageflags", "--", "sh", "-c", "sleep 0.3; exit 7"
    )
    assert code == 7
    last = json.loads(out.splitlines()[-1])
    assert (last["reason"], last["command_exit"]) == ("process ended", 7)
    assert not last["command_was_ended"]
    assert "watching" in err


@needs_root
def test_what_a_command_left_running_is_ended_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(live_session, "_ROSTER_NS", 50_000_000)
    said = tmp_path / "pid"
    request = LiveRequest(
        command=("sh", "-c", f"sleep 60 & echo $! >{said}; sleep 1"),
        monitor="kpageflags",
        dry_run=True,
        device="cpu",
        for_ns=2_500_000_000,
    )
    with LiveSession(request) as session:
        session.run(lambda: None, lambda *_: None)
        left = Process(int(said.read_text()))
    assert left.wait(20)
    assert session.totals.end_reason == "time is over"
    assert session.totals.command_exit == 0


@needs_root
def test_who_has_ended_is_no_process_of_the_run_any_more(sleeper, monkeypatch):
    monkeypatch.setattr(live_session, "_ROSTER_NS", 50_000_000)
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as other:
        request = LiveRequest(
            pids=(sleeper.pid, other.pid),
            monitor="kpageflags",
            dry_run=True,
            device="cpu",
            for_ns=1_500_000_000,
        )
        with LiveSession(request) as session:
            session.run(other.kill, lambda *_: None)
            assert [process.pid for process in session.source.processes] == [sleeper.pid]
            assert list(session.roster.processes) == [0]


@needs_root
def test_two_looks_fall_into_the_window_however_long_they_take(sleeper):
    request = LiveRequest(
        pids=(sleeper.pid,), monitor="kpageflags", dry_run=True, device="cpu", interval_ns=2_000_000_000
    )
    with LiveSession(request) as session:
        assert session.engine.policy.window_ns == 6_000_000_000
        slow = TickReport(0, 0, 0, metrics={"observe_ns": 1_500_000_000.0}, migrate_busy_ns=500_000_000)
        session.pipeline._widen_window(slow)
        assert session.engine.policy.window_ns == 12_000_000_000
        session.pipeline._widen_window(TickReport(1, 0, 0))
        assert session.engine.policy.window_ns == 6_000_000_000


@needs_root
def test_the_overhead_is_of_the_time_that_the_moves_took_too(sleeper):
    request = LiveRequest(
        pids=(sleeper.pid,), monitor="kpageflags", dry_run=True, device="cpu", for_ns=200_000_000
    )
    with LiveSession(request) as session:
        tick = session.engine.tick

        def slow_tick():
            report = tick()
            time.sleep(0.2)  # as if pages were moved
            return report

        session.engine.tick = slow_tick  # type: ignore[method-assign]
        session.run(lambda: None, lambda *_: None)
        totals = session.totals
        assert totals.spent_within_s >= totals.elapsed_ns / 1e9 + 0.2
        spent_s = totals.gpuscan_cpu_s + totals.kernel_cpu_s
        assert totals.overhead == spent_s / totals.spent_within_s


def test_a_signal_handler_may_end_the_wait_wherever_it_comes():
    stop = Stop()
    lines = []

    def interrupt(frame, event, argument):
        if frame.f_code is Stop.wait.__code__ or frame.f_code is Stop.set.__code__:
            frame.f_trace_opcodes = True
            lines.append(frame.f_lineno)
            sys.settrace(None)
            stop.set()
            sys.settrace(interrupt)
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        assert stop.wait(60)
    finally:
        sys.settrace(before)
    assert lines
    stop.close()


def test_a_signal_wakes_who_waits():
    stop = Stop()
    assert not stop.wait(0.01)
    before = signal.signal(signal.SIGALRM, lambda *_: stop.set())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    began_s = time.monotonic()
    try:
        assert stop.wait(60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began_s < 30
    for _ in range(100_000):  # more than a pipe holds
        stop.set()
    stop.close()


@needs_root
def test_a_signal_while_the_command_starts_does_not_leave_it_behind(monkeypatch):
    started = []

    def starts(system, argv, **how):
        started.append(subprocess.Popen(argv))
        os.kill(os.getpid(), signal.SIGTERM)  # nobody knows of the command yet
        return started[0]

    def unwinds(signum, _):
        raise KeyboardInterrupt

    monkeypatch.setattr(System, "start", starts)
    before = signal.signal(signal.SIGTERM, unwinds)  # as the command line has it
    try:
        request = LiveRequest(command=("sleep", "60"), monitor="kpageflags", dry_run=True, device="cpu")
        with LiveSession(request) as session:
            session.run(lambda: None, lambda *_: None)
        assert session.totals.end_reason == "interrupted"
        assert session.totals.ended_by == signal.SIGTERM
        assert session.totals.command_exit == -signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is unwinds
    finally:
        signal.signal(signal.SIGTERM, before)
        started[0].kill()
        started[0].wait()


@needs_root
def test_one_node_is_refused_unless_it_is_a_dry_run(capsys, sleeper):
    if sum(1 for node in read_host().topology.nodes if node.present_pages) > 1:
        pytest.skip("this machine has several nodes")
    code, _, err = run(capsys, "--pid", str(sleeper.pid))
    assert code == 2
    assert "one node with memory, so there is nowhere to move pages to" in err
    code, _, err = run(capsys, "--split-cxl", "50%", "--pid", str(sleeper.pid))
    assert code == 2
    assert "add --dry-run" in err


@needs_root
def test_a_target_that_is_not_there(capsys, sleeper):
    code, _, err = run(capsys, "--dry-run", "--to", "900", "--pid", str(sleeper.pid))
    assert code == 2
    assert err.startswith("gpuscan: error: node 900 is not there or not online")


def test_a_source_that_does_not_exist(capsys, sleeper):
    code, _, err = run(capsys, "--dry-run", "--monitor", "nonsense", "--pid", str(sleeper.pid))
    assert code == 2
    assert "--monitor takes" in err


def test_what_is_no_way_to_treat_shared_pages(capsys, sleeper):
    code, _, err = run(capsys, "--dry-run", "--shared", "perhaps", "--pid", str(sleeper.pid))
    assert code == 2
    assert "not one of 'watched', 'never', 'always'" in err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_metrics_addresses(text, place):
    assert parse_address(text) == place


@pytest.mark.parametrize("text", ["localhost", "1.2.3.4:", ":x", ":70000", ":0"])
def test_metrics_addresses_without_a_port(text):
    with pytest.raises(InputError, match="names no port"):
        parse_address(text)


@needs_root
def test_prometheus_metrics_of_a_run(sleeper):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    exporter = Exporter("127.0.0.1", port)
    request = LiveRequest(
        pids=(sleeper.pid,), monitor="kpageflags", dry_run=True, device="cpu", for_ns=200_000_000
    )
    with LiveSession(request) as session:
        session.run(lambda: None, lambda *_: exporter.update(session))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    exporter.close()
    assert f"gpuscan_ticks_total {float(session.totals.n_ticks)}" in text
    assert "gpuscan_processes 1.0" in text
    assert 'gpuscan_resident_pages{node="0"}' in text
    with pytest.raises(InputError, match="cannot listen"):
        Exporter("192.0.2.1", port)


@needs_root
def test_a_capture_of_a_process_marks_what_was_seen_and_nothing_else(tmp_path, sleeper, monkeypatch):
    from gpuscan.linux.resident import pages_in
    from gpuscan.live import capture as capture_module
    from gpuscan.monitors.built_in.kpageflags import ReferencedFlags
    from gpuscan.monitors.touched import Touched, mapped
    from gpuscan.records.page_flags import Kpf, bits
    from gpuscan.snapshot.snapshot import Snapshot

    seen = []

    class Scripted(ReferencedFlags):
        def observe(self, now_ns):
            pages = pages_in(self._processes[0], mapped(self._processes[0], writable=True))
            seen.append(pages.pfn.tolist())
            return [Touched(pages)]

    monkeypatch.setattr(capture_module, "open_monitor", lambda *args, **kwargs: (Scripted(), []))
    out = tmp_path / "host.zarr"
    arguments = ["capture", str(out), "--pid", str(sleeper.pid), "--for", "300ms", "--json"]
    assert main(arguments) == 0
    snapshot = Snapshot.read(out)
    hot = np.flatnonzero((snapshot.flags & bits(Kpf.REFERENCED, Kpf.ACTIVE)) != 0)
    pfns = set(snapshot.topology.page_map.pfn_of_flat(hot).tolist())
    assert len(seen) >= 2
    assert len(pfns) > 100
    assert len(pfns - set(seen[0])) <= 0.1 * len(pfns)  # heads of large folios aside
    assert any("hot: what kpageflags saw" in note for note in snapshot.notes)


@needs_root
def test_a_capture_marks_nothing_of_a_process_that_has_ended(tmp_path, sleeper, monkeypatch):
    """Its frames are free then, or another's."""
    from gpuscan.live import capture as capture_module
    from gpuscan.monitors.built_in.kpageflags import ReferencedFlags
    from gpuscan.monitors.touched import Touched
    from gpuscan.records.page_flags import NO_PAGE
    from gpuscan.snapshot.snapshot import Snapshot

    n_looks = 0

    class Scripted(ReferencedFlags):
        def observe(self, now_ns):
            nonlocal n_looks
            n_looks += 1
            touched = Touched(pages_in(self._processes[0], mapped(self._processes[0])))
            if n_looks == 2:
                sleeper.kill()
                sleeper.wait()
            return [touched]

    monkeypatch.setattr(capture_module, "open_monitor", lambda *args, **kwargs: (Scripted(), []))
    out = tmp_path / "host.zarr"
    arguments = ["capture", str(out), "--pid", str(sleeper.pid), "--for", "30s", "--json"]
    assert main(arguments) == 0
    assert n_looks == 2
    snapshot = Snapshot.read(out)
    assert not (snapshot.flags[snapshot.flags != NO_PAGE] & bits(Kpf.REFERENCED, Kpf.ACTIVE)).any()
    ended, hot = snapshot.notes[-2:]
    assert re.fullmatch(rf"process {sleeper.pid} ended after .*; none of its pages is marked", ended)
    assert "30 s" not in hot


GIVES_BACK = """
import mmap
memory = [mmap.mmap(-1, 4 << 20) for _ in range(2)]
for each in memory:
    each.write(b"x" * len(each))
print("ready", flush=True)
input()
memory.pop().close()
print("gone", flush=True)
input()
"""


@needs_root
def test_a_capture_marks_nothing_that_a_process_has_given_back(monkeypatch):
    """It goes on, and its frames are another's."""
    from gpuscan.live import capture as capture_module
    from gpuscan.monitors.built_in.kpageflags import ReferencedFlags
    from gpuscan.monitors.touched import Touched
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.topology.sysfs import read_host

    child = subprocess.Popen(
        [sys.executable, "-c", GIVES_BACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    to_child, from_child = child.stdin, child.stdout
    process = Process(child.pid)
    had: list[np.ndarray] = []
    tables: list[Any] = []

    def pages():
        return pages_in(process, mapped(process, writable=True))

    class Scripted(ReferencedFlags):
        def observe(self, now_ns):
            if len(had) == 2:  # looks at all of it
                to_child.write("\n")
                to_child.flush()
                assert from_child.readline() == "gone\n"
            seen = pages()
            had.append(seen.pfn)
            return [Touched(seen)]

    def captured(root, progress, *, with_cgroups):
        machine = read_host().topology
        flags = np.zeros(machine.page_map.n_pages, dtype=np.uint64)
        return Snapshot(machine, flags, flags.astype(np.uint32), "6.18", None, False, "2026-01-01")

    monkeypatch.setattr(capture_module, "open_monitor", lambda *args, **kwargs: (Scripted(), []))
    monkeypatch.setattr(capture_module, "capture", captured)
    try:
        assert from_child.readline() == "ready\n"
        snapshot = capture_module.capture_processes([child.pid], 10**9, on_captured=tables.extend)
        kept = pages().pfn
    finally:
        child.kill()
        child.communicate()
    gone = np.setdiff1d(had[0], kept)
    assert len(gone) >= 1024  # 4 MiB
    hot = snapshot.topology.page_map.pfn_of_flat(np.flatnonzero(snapshot.flags))
    assert len(hot) > 0
    assert not np.isin(hot, gone).any()
    assert np.isin(kept, np.concatenate([part["pfn"] for part in tables])).any()
    assert {pid for part in tables for pid in part["pid"].tolist()} == {child.pid}


@needs_root
@pytest.mark.parametrize(
    ("argv", "code", "how"),
    [
        (["true"], 0, "exit status 0"),
        (["sh", "-c", "exit 130"], 130, "exit status 130"),
        (["sh", "-c", "kill -9 $$"], 137, "SIGKILL"),
    ],
)
def test_a_command_that_ended_before_it_was_watched_is_an_ordinary_end(monkeypatch, capsys, argv, code, how):
    def ended(argv, stdout, on_started):
        popen = subprocess.Popen(argv, stdout=stdout)
        popen.wait()
        return popen

    monkeypatch.setattr(live_session, "plainly", lambda system: ended)
    found, out, err = run(capsys, "--dry-run", "--monitor", "kpageflags", "--", *argv)
    assert found == code
    assert f"command {how}\n" in re.sub(" +", " ", out)
    assert "note: the command ended before it could be watched" in err
    assert "error" not in err


@needs_root
def test_a_command_that_is_ended_with_the_run_does_not_make_it_fail(capsys):
    arguments = ["--dry-run", "--monitor", "kpageflags", "--for", "200ms", "--json", "--", "sleep", "60"]
    code, out, _ = run(capsys, *arguments)
    last = json.loads(out.splitlines()[-1])
    assert (code, last["reason"]) == (0, "time is over")
    assert (last["command_exit"], last["command_was_ended"]) == (-signal.SIGTERM, True)


@pytest.mark.parametrize(
    ("command_exit", "was_ended", "code"),
    [(None, False, 0), (0, False, 0), (7, False, 7), (-9, False, 137), (-15, True, 0), (3, True, 0)],
)
def test_the_exit_code_is_that_of_a_command_that_ended_by_itself(command_exit, was_ended, code):
    assert LiveTotals(command_exit=command_exit, command_was_ended=was_ended).exit_code == code


@needs_root
def test_ctrl_c_is_an_ordinary_end(sleeper):
    with started_live("--json", "--pid", str(sleeper.pid)) as live:
        first = json.loads(live.stdout.readline())
        live.send_signal(signal.SIGINT)
        out, err = live.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert (first["event"], last["event"], last["reason"]) == ("start", "end", "interrupted")
    assert live.returncode == 0
    assert "error" not in err
    assert sleeper.poll() is None


@needs_root
def test_what_is_ignored_stays_so_for_the_command_too():
    said = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)"
    code = f"{said}; import time; time.sleep(1)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with started_live("--", sys.executable, "-c", code) as live:
            assert live.stdout.readline() == "True\n"
            live.send_signal(signal.SIGHUP)
            out, _ = live.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "ended process ended" in re.sub(" +", " ", out)
    assert live.returncode == 0


@needs_root
def test_ctrl_c_of_a_terminal_reaches_the_command_which_ends_by_itself():
    import pty

    ready = "trap 'sleep 0.5; exit 5' INT; echo up; while :; do sleep 0.1; done"
    pid, terminal = pty.fork()
    if not pid:
        arguments = ["live", "--device", "cpu", "--dry-run", "--monitor", "kpageflags", "--json"]
        os.execv(sys.executable, [sys.executable, "-m", "gpuscan", *arguments, "--", "sh", "-c", ready])
    shown = b""
    with open(terminal, "r+b", buffering=0) as screen:  # noqa: PTH123  # by descriptor
        while b'"event": "tick"' not in shown:
            shown += screen.read(4096)
        screen.write(b"\x03")
        with contextlib.suppress(OSError):  # EIO: the last one has closed the terminal
            while part := screen.read(4096):
                shown += part
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    assert b'"reason": "interrupted"' in shown
    assert b"error" not in shown


@needs_root
def test_a_second_signal_breaks_it_off():
    arguments = ["--json", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    with started_live(*arguments) as live:
        live.stdout.readline()
        live.send_signal(signal.SIGTERM)
        time.sleep(1)  # it waits for the command now
        live.send_signal(signal.SIGTERM)
        out, err = live.communicate(timeout=60)
    assert live.returncode == 143
    assert err.splitlines()[-1] == "gpuscan: error: terminated"
    assert '"event": "end"' not in out


@needs_root
def test_the_table_of_a_dry_run_is_of_the_machine_that_is_planned_for(sleeper, capsys):
    with LiveSession(LiveRequest(pids=(sleeper.pid,), dry_run=True, monitor="kpageflags")) as session:
        if len([node for node in read_host().topology.nodes if node.present_pages]) > 1:
            pytest.skip("this machine has several nodes")
        session.run(session._stop.set, lambda *_: None)
        (real,) = read_allowance(session.source.processes[0]).resident.values()
        (upper,) = (node for node in session.topology.nodes if node.nid == 1)
        boundary = min(zone.present[0][0] for zone in upper.zones)
        pages = pages_in(session.source.processes[0], mapped(session.source.processes[0]))
        n_upper = int((pages.pfn >= boundary).sum())
        found = session.totals.resident_pages
        assert abs(found.get(0, 0) + found.get(1, 0) - real) <= 0.1 * real
        assert abs(found.get(1, 0) - n_upper) <= 0.1 * real + 1


def test_resident_pages_are_counted_on_the_nodes_that_are_pretended(tmp_path, monkeypatch):
    page_map = PageMap.from_extents([Extent(0, 32768, 0, 0), Extent(32768, 65536, 1, 1)])
    pfns = np.array([5, 6, 40_000, 50_000, 60_000, 99_999_999], dtype=np.int64)
    words = np.zeros(65536, dtype=np.uint64)
    words[60_000] = bits(Kpf.ZERO_PAGE)
    (tmp_path / "kpageflags").write_bytes(words.tobytes())
    pages = Pages(np.arange(6) << 12, pfns, np.ones(6, dtype=bool), np.zeros(6, dtype=bool))
    monkeypatch.setattr(resident, "pages_in", lambda process, ranges: pages)
    flags = PageFlags(tmp_path / "kpageflags")
    process: Any = SimpleNamespace(mappings=list)
    assert resident_by_nid(process, page_map, flags) == {0: 2, 1: 2}
    flags.close()


def test_a_dry_run_counts_what_would_arrive_where():
    page_map = PageMap.from_extents([Extent(0, 32768, 0, 0)])
    migrator = DryRunMigrator(AddressMap(), page_map)
    migrator.migrate(1, np.array([0, 512]), np.array([512, 1]))
    migrator.migrate(1, np.array([1024]), np.array([2]))
    assert migrator.planned_pages == {1: 515}
    assert not migrator.moved_pages


def test_what_a_dry_run_plans_is_not_called_refused(capsys):
    ledger = Ledger(requested=10, dropped=Counter({"refused: ECANCELED": 7, "freed": 3}))
    refusals = Counter({DRY_RUN: 7})
    report = RunReport("cpu", "", "test", 1, Policy(), [], ledger, refusals)
    planned = ("refused: ECANCELED", DRY_RUN)
    print_requests(report, Output(json_mode=False), refused_title="not moved", planned=planned)
    out = capsys.readouterr().out
    assert "+ planned (dry run) 7 70.0%" in " ".join(out.split())
    assert "ECANCELED" not in out
    assert "not moved" not in out
