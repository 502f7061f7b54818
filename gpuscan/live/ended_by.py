"""The signals that end a live run in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gpuscan.linux.system import System
from gpuscan.live.stop import Stop
from gpuscan.live.totals import LiveTotals

_ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def until_signal(
    system: System,
    stop: Stop,
    totals: LiveTotals,
    ended_by: Sequence[int] = _ENDED_BY,
    others: Mapping[int, Callable[[int, FrameType | None], object]] | None = None,
) -> Iterator[None]:
    """Let the first signal end the run after its tick, and note it; a second one breaks it off.

    Args:
        system: whose signals these are.
        stop: is raised.
        totals: note which one it was.
        ended_by: the signals that end it.
        others: what other signals do meanwhile.
    """
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        if totals.ended_by is not None:
            handler = before.get(signum)  # both may come before it is known what there was
            if callable(handler):  # it may count which signals came
                handler(signum, frame)
            raise KeyboardInterrupt
        totals.ended_by = signum
        stop.set()

    try:
        for heeded in ended_by:
            before[heeded] = system.on_signal(heeded, note)
        for signum, handler in (others or {}).items():
            before[signum] = system.on_signal(signum, handler)
        yield
    finally:
        for signum, handler in before.items():
            system.on_signal(signum, handler)
