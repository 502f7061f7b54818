"""Starting what runs in the guest beside a test, and reading what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES

from .kernel import page_nodes

HERE = Path(__file__).parent
_T = TypeVar("_T")


def eventually(look: Callable[[], _T], what: str, limit_s: float = 60.0) -> _T:
    """Call ``look`` until it returns something true, and return that."""
    deadline = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {limit_s:g} s until {what}"
        time.sleep(0.05)
    return seen


class Program:
    """A running program that prints JSON Lines; killed at the end of the ``with`` block if it still runs."""

    def __init__(self, command: list[str], folder: Path, name: str) -> None:
        self._said_file, self._complaints = folder / f"{name}.jsonl", folder / f"{name}.stderr"
        with self._said_file.open("wb") as out, self._complaints.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.command = command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def said(self) -> list[dict[str, Any]]:
        """Return what it has printed, one object a line, without a line that is not finished."""
        return [json.loads(line) for line in self._said_file.read_text().split("\n")[:-1]]

    def complaints(self) -> str:
        """Return what it has written to its standard error."""
        return self._complaints.read_text()

    def wait_for(self, found: Callable[[dict[str, Any]], object], limit_s: float) -> dict[str, Any]:
        """Return the first object that ``found`` accepts, which may have been printed already."""

        def look() -> dict[str, Any] | None:
            hit = next((each for each in self.said() if found(each)), None)
            ended = self.process.poll()
            assert hit or ended is None, f"{self.command} ended with {ended}: {self.complaints()}"
            return hit

        hit = eventually(look, f"{self.command[0]} says so; it complained: {self.complaints()}", limit_s)
        assert hit is not None
        return hit

    def end(self, limit_s: float) -> int:
        """Wait until it ends by itself and return its exit status."""
        return self.process.wait(limit_s)

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Workload(Program):
    """``workload.py``, running, its memory in place."""

    _started_by: tuple[str, ...] = ()

    def __init__(self, folder: Path, *options: str) -> None:
        command = [*self._started_by, sys.executable, str(HERE / "workload.py"), *options]
        super().__init__(command, folder, "workload")
        place = self.wait_for(lambda line: "address" in line, 200)
        self.address: int = place["address"]
        self.n_bytes: int = place["n_bytes"]
        self.wait_for(lambda line: "hot" in line, 60)

    def n_touched(self) -> int:
        """Return how many page touches it has reported."""
        return int(self.said()[-1]["n_touched"])

    def hot(self) -> tuple[int, int]:
        """Return the hot stretch, in bytes from the start of its memory."""
        lo, hi = self.said()[-1]["hot"]
        return lo, hi

    def nodes(self, first: int = 0, end: int | None = None) -> NDArray[np.int64]:
        """Return the node of every page of its memory, or of pages ``[first, end)`` of it."""
        n_pages = (self.n_bytes // PAGE_BYTES if end is None else end) - first
        return page_nodes(self.pid, self.address + first * PAGE_BYTES, n_pages * PAGE_BYTES)


class ForeignWorkload(Workload):
    """A workload that is no child of this process: a service leaves its own children alone."""

    _started_by = ("sh", "-c", '"$@" & wait', "sh")

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.said()[0]["pid"])

    def kill(self) -> None:
        """Kill it, and the shell that waits for it."""
        if self.process.poll() is None and self.said():
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(60)
        super().kill()


class Odd(Program):
    """``odd.py``, running in a cgroup; no child of this process."""

    def __init__(self, folder: Path, name: str, cgroup: Path, kind: str, *options: str) -> None:
        self.cgroup = cgroup
        inside = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(cgroup / "cgroup.procs")]
        program = [sys.executable, "-I", "-S", str(HERE / "odd.py"), kind, *options]
        super().__init__(["sh", "-c", '"$@" & wait $!', "sh", *inside, *program], folder, name)

    def until_placed(self) -> None:
        """Wait until its memory is in place."""
        self.wait_for(lambda line: "address" in line, 200)

    @property
    def pid(self) -> int:
        """Its process id out here, also where it is in a namespace."""
        place = self.said()[-1]
        pids = map(int, (self.cgroup / "cgroup.procs").read_text().split())
        return next(pid for pid in pids if self.status(pid, "NSpid")[-1] == place["pid"])

    @staticmethod
    def status(pid: int, name: str) -> list[int]:
        """Return the numbers of a line of a process's status in /proc."""
        words = next(
            line.split()[1:]
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith(f"{name}:")
        )
        return [int(word) for word in words if word.isdigit()]

    def hot(self) -> tuple[int, int]:
        """Return the hot stretch, in bytes from the start of its memory."""
        lo, hi = self.said()[-1]["hot"]
        return lo, hi

    def nodes(self) -> NDArray[np.int64]:
        """Return the node of every page of its memory."""
        place = self.said()[-1]
        return page_nodes(self.pid, place["address"], place["n_bytes"])

    def end_checked(self) -> None:
        """Have it end, and check that its memory holds what it wrote."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.end(120) == 0, (
            f"{self.command} has ended with {self.process.returncode}: {self.complaints()}"
        )


class Pair(Program):
    """``pair.py``, running, the memory of both its processes in place."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__([sys.executable, str(HERE / "pair.py"), *options], folder, "pair")
        place = self.wait_for(lambda line: "address" in line, 60)
        self.pids: list[int] = place["pids"]
        self.cpus: list[int] = place["cpus"]
        self._address, self._n_bytes = place["address"], place["n_bytes"]
        self.wait_for(lambda line: "in_place" in line, 60)

    def nodes(self, which: int) -> NDArray[np.int64]:
        """Return the node of every page of one of its processes, 0 or 1."""
        return page_nodes(self.pids[which], self._address, self._n_bytes)[which::2]


class Live(Program):
    """``gpuscan live`` on running processes, its monitor on."""

    def __init__(self, folder: Path, pids: list[int], *options: str, name: str = "live") -> None:
        named = [word for pid in pids for word in ("--pid", str(pid))]
        command = [sys.executable, "-m", "gpuscan", "live", *named, "--json", "--device", "cpu", *options]
        self.launched_s = time.monotonic()
        super().__init__(command, folder, name)
        self.start = self.wait_for(lambda line: line["event"] == "start", 900)
        self.started_s = self.launched_s + float(self.start["startup_s"])

    def ticks(self) -> list[dict[str, Any]]:
        """Return the ticks so far."""
        return [line for line in self.said() if line["event"] == "tick"]

    def moved_pages(self) -> int:
        """Return the base pages moved so far."""
        return sum(tick["moved_pages"] for tick in self.ticks())

    def interrupt(self, limit_s: float = 60) -> dict[str, Any]:
        """End it as Ctrl-C does and return its last line."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(limit_s)
        last = self.said()[-1]
        assert last["event"] == "end", self.complaints()
        return last
