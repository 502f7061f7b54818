"""A plan on its way to the host, beside the scans that are begun later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


class Transfer:
    """The copy of one plan's arrays from the device.

    Args:
        finish: waits for the copy, and keeps what it reads and writes until it is over.
        undo: puts the claims of the plan back.
        give: takes back what the plan was copied from, and its claims, once both are there.
    """

    def __init__(
        self, finish: Callable[[], None], undo: Callable[[], None], give: Callable[[], None]
    ) -> None:
        self._finish: Callable[[], None] | None = finish
        self._undo: Callable[[], None] | None = undo
        self._give: Callable[[], None] | None = give
        self._is_lost = False
        self._lock = threading.Lock()

    def arrive(self) -> None:
        """Wait for the copy, as who reads the plan.

        Raises:
            Whatever went wrong, after every claim was put back; RuntimeError at every further call,
            since the pages may be in another plan by then.
        """
        with self._lock:
            if self._is_lost:
                raise RuntimeError("this plan was lost on its way to the host and its claims went back")
            try:
                self._end_copy()
            except BaseException:  # KeyboardInterrupt too: claims must not get lost
                self._is_lost = True
                if self._undo is not None:
                    self._undo()
                raise
            finally:
                self._undo = self._give = None  # and with it the claims on the device

    def __del__(self) -> None:
        """Wait for a copy that nobody waited for: the memory it uses is given away next."""
        with suppress(Exception):  # nobody asked for this plan; a broken device says so at its next call
            self._end_copy()

    def _end_copy(self) -> None:
        if self._finish is not None:
            self._finish()
            self._finish = None
            if self._give is not None:
                self._give()
