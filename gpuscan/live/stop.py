"""What ends a run from a signal handler, and wakes whoever sleeps."""

from __future__ import annotations

import contextlib
import os
import select


class Stop:
    """A flag with a pipe. Close it.

    Not :class:`threading.Event`: a handler runs in the main thread between any two of its instructions, and
    ``Event.set()`` takes the lock that ``Event.wait()`` may hold there, for ever.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Raise the flag; from a signal handler, too."""
        self._is_set = True
        if self._write_end < 0:  # closed
            return
        with contextlib.suppress(BlockingIOError):  # full of what said so before
            os.write(self._write_end, b".")

    def wait(self, limit_s: float) -> bool:
        """Wait until the flag is raised, up to so many seconds; return whether it is."""
        if not self._is_set:
            poll = select.poll()
            poll.register(self._read_end, select.POLLIN)
            poll.poll(limit_s * 1000)
        return self._is_set

    def close(self) -> None:
        """Close the pipe; the flag stays as it is."""
        read_end, write_end = self._read_end, self._write_end
        self._read_end = self._write_end = -1  # a handler may come between any two of these
        os.close(read_end)
        os.close(write_end)
