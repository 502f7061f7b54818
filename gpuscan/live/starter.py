"""A command runs with what its caller may do, though gpuscan has given that up by then.

Capabilities and no_new_privs are a thread's own, and a child has those of the thread that forks it. So a
thread is started while gpuscan still has all its rights; it waits, starts the command, and ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from gpuscan.linux.system import System
from gpuscan.linux.write_tracking import TrackedProgram

Program = subprocess.Popen[bytes] | TrackedProgram
Start = Callable[[Sequence[str], int | None, Callable[[], None]], Program]
"""Starts a program; gets ``argv``, the descriptor for its standard output (None for gpuscan's), and what each
further thread that it makes calls once the program has started."""


def plainly(system: System) -> Start:
    """Return what starts a program as a child."""

    def start(argv: Sequence[str], stdout: int | None, on_started: Callable[[], None]) -> Program:
        return system.start(argv, stdout=stdout)

    return start


class Starter:
    """A thread with the rights of whoever makes this. Close it.

    Args:
        give_up: gives up the rights of the thread that calls it.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self._give_up = give_up
        self._executor = ThreadPoolExecutor(1, "starter")
        self._executor.submit(lambda: None).result()  # the thread is there from now on

    def start(self, start: Start, argv: Sequence[str], stdout: int | None) -> Program:
        """Start a program with the thread's rights; the thread ends then.

        Raises:
            OSError: the program cannot be started, or the kernel refuses to take the rights back.
        """
        future = self._executor.submit(start, argv, stdout, self._give_up)
        try:
            return future.result()
        except KeyboardInterrupt:
            if future.exception() is None:  # nobody else knows of it yet
                future.result().kill()
                future.result().wait()
            raise
        finally:
            self.close()

    def close(self) -> None:
        """End the thread, with or without a program."""
        self._executor.shutdown()
