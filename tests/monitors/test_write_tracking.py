"""Programs started with write tracking: on this machine's kernel, or skipped with what it lacks."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from gpuscan.base.errors import InputError
from gpuscan.linux import write_tracking
from gpuscan.linux.process import Process
from gpuscan.linux.write_tracking import TrackedProgram
from gpuscan.monitors.built_in.written import WrittenPages

N_PAGES = 512
PROGRAM = f"""
import mmap, os, sys
memory = mmap.mmap(-1, {N_PAGES} * 4096)
for offset in range(0, {N_PAGES} * 4096, 4096):
    memory[offset] = 1
print(os.getpid(), flush=True)
for line in open(sys.argv[1]):
    for page in map(int, line.split()):
        memory[page * 4096] = 2
    print("done", flush=True)
sys.exit(5)
"""
FORKS = "import os, sys\npid = os.fork()\nif pid:\n    os._exit(os.waitpid(pid, 0)[1] >> 8)\n" + PROGRAM


@pytest.fixture
def monitor():
    try:
        monitor = WrittenPages()
    except InputError as error:
        pytest.skip(str(error))
    yield monitor
    monitor.close()


class Tracked:
    """A program under write tracking that reads what to write from a FIFO."""

    def __init__(self, monitor, fifo, argv):
        os.mkfifo(fifo)
        reader, writer = os.pipe()
        self.popen = monitor.start([*argv, str(fifo)], writer)
        os.close(writer)
        self.said = os.fdopen(reader)
        self.pid = int(self.said.readline())
        self.asked = fifo.open("w")
        self.process = Process(self.pid)
        monitor.watch([self.process])

    def write(self, pages):
        self.asked.write(" ".join(map(str, pages)) + "\n")
        self.asked.flush()
        assert self.said.readline() == "done\n"

    def memory(self):
        (memory,) = [
            one
            for one in self.process.mappings()
            if one.end - one.start == N_PAGES * 4096 and "zero" in one.name
        ]
        return memory

    def end(self):
        self.asked.close()
        code = self.popen.wait(20)
        self.said.close()
        self.process.close()
        return code


PYTHON = [sys.executable, "-c"]
SPAWNS = "import subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)"


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([*PYTHON, PROGRAM], id="itself"),
        pytest.param(["sh", "-c", 'exec "$0" "$@"', *PYTHON, PROGRAM], id="after another execve"),
        pytest.param(["sh", "-c", '"$0" "$@"; exit $?', *PYTHON, PROGRAM], id="a child's execve"),
        pytest.param([*PYTHON, SPAWNS, *PYTHON, PROGRAM], id="after vfork"),
        pytest.param([*PYTHON, FORKS], id="a fork"),
    ],
)
def test_exactly_the_written_pages_each_time(monitor, tmp_path, argv):
    tracked = Tracked(monitor, tmp_path / "fifo", argv)
    first = monitor.observe(0)[0].hot
    assert len(first) == 0  # nothing was covered yet
    memory = tracked.memory()
    for pages in ([3, 77, 500], [], [77]):
        tracked.write(pages)
        hot = monitor.observe(0)[0].hot
        inside = (hot.address >= memory.start) & (hot.address < memory.end)
        assert ((hot.address[inside] - memory.start) // 4096).tolist() == pages
    assert tracked.end() == 5
    assert len(monitor.observe(0)[0].hot) == 0


def test_no_descriptor_is_left_in_the_program_and_it_lives_on_without_us(monitor, tmp_path):
    tracked = Tracked(monitor, tmp_path / "fifo", [sys.executable, "-c", PROGRAM])
    tracked.write([1])
    monitor.observe(0)
    names = [str(link.readlink()) for link in (tracked.process.proc / "fd").iterdir()]
    assert not [name for name in names if "userfaultfd" in name]
    monitor.close()
    tracked.write(range(N_PAGES))  # nothing is protected any more
    assert tracked.end() == 5


def test_signals_reach_the_program(monitor):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    reader, writer = os.pipe()
    program = monitor.start([sys.executable, "-c", code], writer)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.readline() == "ready\n"
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.01)
    program.send_signal(signal.SIGUSR1)
    assert program.wait(20) == 9
    other = monitor.start(["sleep", "60"])
    other.kill()
    assert other.wait(20) == -signal.SIGKILL


def test_a_trap_of_the_programs_own_is_no_execve(monitor):
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTRAP, lambda *_: sys.exit(9))\n"
        "os.kill(os.getpid(), signal.SIGTRAP)\ntime.sleep(60)"
    )
    assert monitor.start([sys.executable, "-c", code]).wait(20) == 9


def test_the_children_of_others_are_not_waited_for(monitor):
    mine = subprocess.Popen(["sh", "-c", "exit 6"])
    program = monitor.start(["sleep", "0.3"])
    assert program.wait(20) == 0
    assert mine.wait(20) == 6


def test_a_program_lives_on_when_its_tracer_is_killed(monitor, tmp_path):
    alive = tmp_path / "alive"
    lives_on = f"import time; time.sleep(0.5); open({str(alive)!r}, 'w')"
    code = f"""
import sys, time
from gpuscan.monitors.built_in.written import WrittenPages
program = WrittenPages().start([sys.executable, "-c", {lives_on!r}])
print(program.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert int(tracer.stdout.readline()) > 0
        tracer.kill()
    deadline = time.monotonic() + 20
    while not alive.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_program_that_is_not_there(monitor):
    with pytest.raises(OSError, match="No such file"):
        TrackedProgram(["/no/such/program"])


def test_another_architecture(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match="made for x86-64, not aarch64"):
        write_tracking.check_write_tracking()


def test_a_process_that_dies_meanwhile_keeps_its_exit_status():
    process = subprocess.Popen(["sh", "-c", "exit 6"])
    with pytest.raises(ProcessLookupError):
        write_tracking._wait_for_trap(process.pid)
    assert process.wait(20) == 6


def test_a_child_with_a_filter_of_its_own_is_left_alone(monitor, tmp_path, monkeypatch):
    monkeypatch.setattr(write_tracking, "_seccomp", lambda pid: [str(pid)])
    tracked = Tracked(monitor, tmp_path / "fifo", ["sh", "-c", '"$0" "$@"; exit $?', *PYTHON, PROGRAM])
    assert monitor._program.descriptor(tracked.pid) is None
    assert tracked.end() == 5


def test_a_child_that_may_not_make_one_goes_on_unseen(monitor, tmp_path, monkeypatch):
    plain = write_tracking._call
    called = []
    refused = []

    def call(pid, saved, number, argument):
        called.append(pid)
        if number == write_tracking._SYS_USERFAULTFD and pid != called[0]:
            refused.append(pid)
            return plain(pid, saved, number, 1 << 30)  # EINVAL, from the kernel
        return plain(pid, saved, number, argument)

    tracked_argv = ["sh", "-c", '"$0" "$@"; exit $?', *PYTHON, PROGRAM]
    fifo = tmp_path / "fifo"
    monkeypatch.setattr(write_tracking, "_call", call)
    tracked = Tracked(monitor, fifo, tracked_argv)
    tracked.write([1])
    assert len(monitor.observe(0)[0].hot) == 0
    tracked.write([1])
    assert len(monitor.observe(0)[0].hot) == 0
    assert tracked.end() == 5
    assert refused


VFORKS = """
import _posixsubprocess, os, sys, threading
stop = threading.Event()
busy = threading.Thread(target=lambda: [os.getppid() for _ in iter(stop.is_set, True)])
busy.start()
import subprocess
assert subprocess._USE_VFORK
codes = [subprocess.run(["true"]).returncode for _ in range(20)]
stop.set()
busy.join()
sys.exit(7 if not any(codes) else 1)
"""


def test_a_vfork_child_is_left_alone_until_it_has_memory_of_its_own(monitor, monkeypatch):
    attached, plain = [], TrackedProgram._attach

    def attach(self, pid):
        alive = [other for other in self._descriptors if other != pid]
        attached.append((pid, [other for other in alive if write_tracking._same_memory(pid, other)]))
        plain(self, pid)

    monkeypatch.setattr(TrackedProgram, "_attach", attach)
    program = monitor.start([*PYTHON, VFORKS])
    assert program.wait(60) == 7
    assert [pid for pid, sharing in attached if sharing] == []
    pids = [pid for pid, _ in attached]
    assert len(pids) == 21, "the program, and each child once, at its execve"
    assert len(set(pids)) == 21


def test_forked_memory_is_ones_own_and_a_thread_of_execution_in_it_is_not():
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    try:
        assert not write_tracking._shares_memory(pid, {os.getpid()})
        assert write_tracking._shares_memory(pid, {os.getpid(), pid})
        assert not write_tracking._shares_memory(pid, {1 << 30, os.getpid()}), "one that is gone"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_where_the_kernel_does_not_compare_memory(monkeypatch):
    def refuses(pid, other):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(write_tracking, "_same_memory", refuses)
    assert write_tracking._shares_memory(1, {2})
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(write_tracking, "has_pagemap_scan", lambda: True)
    with pytest.raises(InputError, match=r"kcmp\(2\) fails \(Function not implemented\)"):
        write_tracking.check_write_tracking()
