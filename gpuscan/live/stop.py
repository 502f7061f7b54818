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
        self.wake()

    @property
    def fd(self) -> int:
        """The end of the pipe to read from: readable once the flag is raised, or :meth:`wake` called."""
        return self._read_end

    @property
    def is_set(self) -> bool:
        """Whether the flag is raised."""
        return self._is_set

    def wake(self) -> None:
        """Wake whoever waits for the pipe, without the flag; from a signal handler, too."""
        if self._write_end >= 0:  # not closed
            with contextlib.suppress(BlockingIOError):  # full of what said so before
                self._system.write(self._write_end, b".")

    def slept(self) -> None:
        """Take out what woke up whoever waited."""
        if not self._is_set and self._system.is_readable(self._read_end):
            self._system.read(self._read_end, 64)

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
