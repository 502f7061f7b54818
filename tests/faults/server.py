"""Runs every command that writes with each of its system calls failing, or killed there.

``python -m faults.server`` in tests/, with the library preloaded. One process has imported everything; each
point is a fork of it with a directory of its own. Prints a JSON document: how many points each command has,
how they ended, and what was wrong.
"""

from __future__ import annotations

import argparse
import errno
import gc
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from faults.command import Command
from faults.commands import COMMANDS
from faults.library import Faults

DIE, FULL = "killed", "full from here on"
APPLIES = {
    "o": ("EIO", "EMFILE", "EACCES", "EINTR"),
    "O": ("EIO", "EMFILE", "EACCES", "EINTR", "ENOSPC", FULL),
    "d": ("EIO", "EMFILE", "EACCES"),  # a listing, which CPython does not repeat
    "i": ("EIO", "EINTR"),
    "W": ("EIO", "EINTR", "ENOSPC", FULL),
    "w": ("EIO", "EACCES", "ENOSPC", FULL),
    "s": ("EIO", "EINTR", "ENOSPC"),
    "t": ("EIO", "EINTR"),
    "l": ("EIO", "EINTR"),
    "e": ("EIO",),
    "r": ("EIO", "EACCES"),
    "m": ("ENOMEM",),
    "c": ("EIO", "EINTR"),
}
"""How calls of each kind may fail (the letters are interpose.c's)."""
HUNG_S = 60


class Point(NamedTuple):
    """Call ``at`` of a command, of a kind that :data:`APPLIES` has, fails ``how``."""

    command: str
    at: int
    kind: str
    how: str


class Ended(NamedTuple):
    """How a forked command ended."""

    status: int
    said: str
    calls: str


def _queued_s(pid: int) -> float:
    """Return how long a process was ready and had no CPU, s: a busy host is not a hang.

    Source: ``run_delay`` of sched_info, proc_pid_schedstat() of fs/proc/base.c, v6.18.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # a kernel without CONFIG_SCHED_INFO, or the process has just ended
        return 0.0


def points_of(command: Command, calls: str) -> list[Point]:
    """Return every point of a command whose calls are these."""
    return [
        Point(command.name, number, kind, how)
        for number, kind in enumerate(calls, 1)
        for how in (*APPLIES[kind], DIE)
    ]


class Server:
    """Forks commands.

    Args:
        place: where every point has its directory.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._faults = Faults()
        self.directory = place / "point"

    def forked(self, command: Command, run: Callable[[Path], int], at: int, how: str) -> Ended:
        """Run a command with a call failing (0: none), in a child; wait for its end."""
        said, count = self._place / "said", self._place / "calls"
        count.unlink(missing_ok=True)
        sys.stdout.flush()
        gc.freeze()  # a child collects what is its own
        pid = os.fork()
        if not pid:
            status = 70
            try:
                handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                os.close(handle)
                status = self._armed(run, command.root(self.directory), at, how, count)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        started = time.monotonic()
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - started - _queued_s(pid) > HUNG_S:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Ended(124, f"hung for {HUNG_S} s", "")
            time.sleep(0.001)
        text = said.read_text(errors="replace")
        return Ended(os.waitstatus_to_exitcode(ended[1]), text, count.read_text() if count.exists() else "")

    def _armed(self, run: Callable[[Path], int], root: Path, at: int, how: str, count: Path) -> int:
        number = -1 if how == DIE else errno.ENOSPC if how == FULL else getattr(errno, how)
        self._faults.arm(root, at, number, stays=how == FULL)
        status = run(self.directory)
        gc.collect()  # what is closed late complains late
        calls = self._faults.disarm()
        count.write_text(calls)
        return status

    def prepare(self, command: Command) -> None:
        """Make what a command finds."""
        shutil.rmtree(self.directory, ignore_errors=True)
        kept = self._place / "before" / command.name
        if not kept.exists():
            warm = self._place / "warm"  # what is imported and compiled for the first time is slow
            warm.mkdir()
            command.prepare(warm)
            command.run(warm)
            shutil.rmtree(warm)
            self.directory.mkdir()
            command.prepare(self.directory)
            shutil.copytree(self.directory, kept, symlinks=True)
            return
        shutil.copytree(kept, self.directory, symlinks=True)

    def calls(self, command: Command) -> str:
        """Return the calls of a command that nothing disturbs, a letter each."""
        self.prepare(command)
        ended = self.forked(command, command.run, 0, "EIO")
        if ended.status or "Traceback" in ended.said:
            raise RuntimeError(f"{command.name} alone: {ended.status}, {ended.said}")
        wrong = command.wrong(self.directory, "whole")
        if wrong:
            raise RuntimeError(f"{command.name} alone: {wrong}")
        return ended.calls

    def wrong(self, command: Command, point: Point) -> tuple[str, str]:
        """Run a point; return how it ended, and what was wrong (empty: nothing)."""
        self.prepare(command)
        ended = self.forked(command, command.run, point.at, point.how)
        outcome = {0: "done", 1: "refused (1)", 2: "refused (2)", -9: "killed"}.get(ended.status, "other")
        wrong = self._said_wrong(point, ended)
        # Where nothing but the directory's sync failed, or its clean-up, it is done, and that is noted.
        state = "either" if point.how == DIE else "whole" if not ended.status else "earlier"
        wrong = wrong or command.wrong(self.directory, state)
        if not wrong and (
            point.how == DIE or command.left(self.directory)
        ):  # else the next one finds what it found
            again = self.forked(command, command.again, 0, "EIO")
            if again.status or "Traceback" in again.said:
                wrong = f"the next one: {again.status}, {again.said.strip()[-300:]}"
            wrong = wrong or command.wrong(self.directory, "whole")
            left = command.left(self.directory)
            if not wrong and left:
                wrong = f"left after the next one: {left}"
            wrong = wrong and f"{wrong} (before that it said {ended.said.strip()[-200:]!r})"
        return outcome, wrong

    @staticmethod
    def _said_wrong(point: Point, ended: Ended) -> str:
        if ended.status == -9 and point.how == DIE:
            return ""
        errors = [line for line in ended.said.splitlines() if line.startswith("gpuscan: error:")]
        for bad in ("Traceback", "internal error", "Exception ignored", "bug in gpuscan"):
            if bad in ended.said:
                return f"{ended.status}, {ended.said.strip()[-900:]}"
        if ended.status not in (0, 1, 2):
            return f"ended with {ended.status}: {ended.said.strip()[-300:]}"
        # close(2) is not repeated: the file is closed then, and whether all arrived is not known.
        # Threads of Zarr's may have made another call the n-th one.
        kind = ended.calls[point.at - 1 : point.at] or point.kind
        if point.how == "EINTR" and kind != "c" and point.how in APPLIES[kind] and ended.status:
            return f"an interrupted call was not repeated: {ended.said.strip()[-300:]}"
        if (len(errors) == 1) != bool(ended.status):
            return f"{ended.status} with {len(errors)} sentences: {ended.said.strip()[-300:]}"
        return ""


def sample(points: list[Point], n: int, rng: random.Random) -> list[Point]:
    """Choose ``n`` points: each fault of each kind of call of each command, then commands by turns."""
    rng.shuffle(points)
    first = {(point.command, point.kind, point.how): point for point in points}
    chosen = set(first.values())
    of_command: dict[str, list[Point]] = {}
    for point in points:
        if point not in chosen:
            of_command.setdefault(point.command, []).append(point)
    rounds = itertools.zip_longest(*of_command.values())
    return [*first.values(), *(point for one in rounds for point in one if point is not None)][:n]


def main() -> int:
    """Run points and say what came of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int, help="as many of all points, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="K/N: the K-th of N parts of the points")
    parser.add_argument("--command", action="append", help="these alone")
    parser.add_argument("--at", type=int, help="this call alone")
    options = parser.parse_args()
    chosen = [one for one in COMMANDS if not options.command or one.name in options.command]
    found: dict[str, Any] = {"points": {}, "outcomes": {}, "wrong": []}
    memory = Path("/dev/shm")  # thousands of times fsync(2)
    parent = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="gpuscan-faults-", dir=parent) as place:
        server = Server(Path(place))
        points = []
        for command in chosen:
            calls = server.calls(command)
            mine = points_of(command, calls)
            found["points"][command.name] = {"calls": len(calls), "points": len(mine)}
            points += mine
        if options.at:
            points = [point for point in points if point.at == options.at]
        if options.sample and options.sample < len(points):
            points = sample(points, options.sample, random.Random(options.seed))
        part, n_parts = map(int, options.part.split("/"))
        points = points[part - 1 :: n_parts]
        by_name = {command.name: command for command in chosen}
        outcomes: dict[str, Counter[str]] = {command.name: Counter() for command in chosen}
        started = time.monotonic()
        for done, point in enumerate(points, 1):
            outcome, wrong = server.wrong(by_name[point.command], point)
            outcomes[point.command][outcome] += 1
            if wrong:
                found["wrong"].append([*point, wrong])
            if done % 500 == 0:
                sys.stderr.write(f"{done} of {len(points)}, {len(found['wrong'])} wrong\n")
        found["n_points"], found["seconds"] = len(points), round(time.monotonic() - started, 1)
        found["outcomes"] = {name: dict(counts) for name, counts in outcomes.items()}
    json.dump(found, sys.stdout, indent=1)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
