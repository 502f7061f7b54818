"""What processes leave on this machine: children, listening sockets, by /proc alone."""

from __future__ import annotations

import os
import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the live children of a process, zombies left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def has_ended(pid: int, within_s: float = 10.0) -> bool:
    """Return whether a process ends in time, zombies included.

    kill(2) returns before the process that is killed has gone.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)


def family(pid: int) -> list[int]:
    """Return a process and everything below it."""
    return [pid, *(other for child in children(pid) for other in family(child))]


def worker_pids(pid: int | None = None) -> list[int]:
    """Return the processes that were spawned to be workers of ``pid``, by default of this one."""
    found = []
    for child in family(pid or os.getpid())[1:]:
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"spawn_main" in command:
            found.append(child)
    return found


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """Return (address in hex as the kernel prints it, port) of every TCP socket these processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)  # noqa: PTH115 (not a path)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # TCP_LISTEN
                address, _, port = fields[1].partition(":")
                found.append((address, int(port, 16)))
    return found
