"""A program that runs: filled, asked by a client, verified, and where the pages of its records are."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..processes import Program, eventually
from .catalogue import load
from .contract import NOBODY, Conversation, RealProgram, read_all

TESTS = Path(__file__).parents[2]
START_LIMIT_S = 300.0
END_LIMIT_S = 300.0
"""What a program of an emulated machine may take to end in order, or a client to end its last request."""
log = logging.getLogger(__name__)


class Running:
    """A program that holds all records.

    Attributes:
        program: what it is.
        process: what was started.
        conversation: the harness's own connection, which stays.
        holder_pid: a process that has all records in its page tables.
    """

    def __init__(
        self, program: RealProgram, name: str, process: subprocess.Popen[bytes], conversation: Conversation
    ) -> None:
        self.program, self.name, self.process, self.conversation = program, name, process, conversation
        self.holder_pid = program.holder(conversation, process.pid)
        self.has_ended = False

    def check(self, n_writes: int) -> None:
        """Verify all that it holds after so many writes, its own ways last."""
        read_all(self.program, self.conversation, n_writes)
        self.program.check(self.conversation, n_writes)

    def end(self) -> None:
        """End it in order, and verify what it leaves."""
        self.conversation.close()
        self.has_ended = True
        _end(self.process, self.program)
        self.program.check_files()


def _end(process: subprocess.Popen[bytes], program: RealProgram) -> None:
    """End a program in order: one that is killed leaves what it shares with its children behind."""
    process.send_signal(program.ends_by)
    process.wait(END_LIMIT_S)


@contextmanager
def running(name: str, cgroup: Path | None = None, cpu: int | None = None) -> Iterator[Running]:
    """Start a program, have it hold all records, and end it if it still runs.

    Args:
        name: of the catalogue.
        cgroup: where it runs, with all that it starts.
        cpu: that it stays on.
    """
    with tempfile.TemporaryDirectory(prefix="gpuscan-program-") as folder_name:
        folder = Path(folder_name)
        folder.chmod(0o755)
        if os.geteuid() == 0:  # some do not run as root, or not for long
            os.chown(folder, NOBODY, NOBODY)
        program = load(name)(folder)
        program.prepare()
        log.info("%s: has a folder", name)
        complaints = folder / "complaints"
        command = program.command()
        if cpu is not None:
            command = ["taskset", "-c", str(cpu), *command]
        if cgroup is not None:
            command = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(cgroup / "cgroup.procs"), *command]
        with complaints.open("wb") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0
            )

        def connected() -> Conversation | None:
            assert process.poll() is None, f"{command} has ended: {complaints.read_text()}"
            try:
                return program.connect()
            except OSError:
                return None

        try:
            conversation = eventually(connected, f"{name} answers", START_LIMIT_S)
            assert conversation is not None
            log.info("%s: answers", name)
            program.fill(conversation)
            log.info("%s: holds all records", name)
            started = Running(program, name, process, conversation)
            try:
                yield started
            finally:
                if not started.has_ended:
                    conversation.close()
        finally:
            try:
                if process.poll() is None:
                    _end(process, program)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@dataclass(frozen=True)
class Pace:
    """How a program answers within a time: records read a second, the longest time between two answers."""

    reads_per_s: float
    longest_gap_s: float

    def __str__(self) -> str:
        return f"{self.reads_per_s:,.0f} reads/s, longest gap {self.longest_gap_s:.2f} s"


class Client(Program):
    """``client.py``, asking."""

    def __init__(
        self, running: Running, log_folder: Path, cpu: int | None = None, *, stays: bool = False
    ) -> None:
        command = [
            sys.executable,
            "-S",
            "-m",
            "guest.programs.client",
            running.name,
            str(running.program.folder),
        ]
        if cpu is not None:
            command += ["--cpu", str(cpu)]
        if stays:
            command.append("--stays")
        super().__init__(["env", f"PYTHONPATH={TESTS}", *command], log_folder, "client")
        self.wait_for(lambda line: line["n_read"] > 0, START_LIMIT_S)

    def pace(self, from_s: float, to_s: float) -> Pace:
        """Return how the program answered between two times (time.monotonic())."""
        lines = [line for line in self.said() if from_s <= line["t_s"] <= to_s]
        assert len(lines) > 1, f"no answer within {to_s - from_s:.1f} s: {self.complaints()}"
        first, last = lines[0], lines[-1]
        reads_per_s = (last["n_read"] - first["n_read"]) / (last["t_s"] - first["t_s"])
        return Pace(reads_per_s, max(line["longest_gap_s"] for line in lines[1:]))

    def finish(self, limit_s: float = END_LIMIT_S) -> dict[str, Any]:
        """Have it end after the request under way and return its last line."""
        self.process.send_signal(signal.SIGTERM)
        assert self.end(limit_s) == 0, self.complaints()
        return self.said()[-1]
