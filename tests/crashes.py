"""Forked children that end at a chosen moment: what the disk looks like after a crash."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

_TOUCHES_DISK = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate"}


def in_child(task: Callable[[], None]) -> int:
    """Run ``task`` in a forked child; return its exit status, 0 when it came back, -9 when it was killed."""
    pid = fork(task)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork(task: Callable[[], None]) -> int:
    """Start ``task`` in a forked child and return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # fork() beside threads, which the child never uses
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        task()
        status = 0
    except BaseException as error:
        os.write(2, f"in the child: {error!r}\n".encode())
    finally:
        os._exit(status)


def kill_at(step: int, directory: Path) -> None:
    """Let this process be killed at the ``step``-th time that it touches something below ``directory``.

    It dies before the operation takes place.
    """
    seen = 0
    below = str(directory)

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _TOUCHES_DISK and str(args[0]).startswith(below):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
