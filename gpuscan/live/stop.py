"""What ends a run from a signal handler, and wakes whoever sleeps."""

from __future__ import annotations

import contextlib

from gpuscan.linux.system import HERE, System


class Stop:
    """A flag with a pipe. Close it.

    Not :class:`threading.Event`: a handler runs in the main thread between any two of its instructions, and
    ``Event.set()`` takes the lock that ``Event.wait()`` may hold there, for ever.
    """

    def __init__(self, system: System = HERE) -> None:
        self._system = system
        self._is_set = False
        self._read_end, self._write_end = system.pipe()

    def set(self) -> None:
        """Raise the flag; from a signal handler, too."""
        self._is_set = True
        if self._write_end < 0:  # closed
            return
        with contextlib.suppress(BlockingIOError):  # full of what said so before
            self._system.write(self._write_end, b".")

    def wait(self, limit_s: float) -> bool:
        """Wait until the flag is raised, up to so many seconds; return whether it is."""
        if not self._is_set:
            self._system.is_readable(self._read_end, limit_s)
        return self._is_set

    def close(self) -> None:
        """Close the pipe; the flag stays as it is."""
        read_end, write_end = self._read_end, self._write_end
        self._read_end = self._write_end = -1  # a handler may come between any two of these
        self._system.close(read_end)
        self._system.close(write_end)
