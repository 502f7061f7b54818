"""How far a job is: a bar on a terminal, lines for a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from gpuscan.base.units import format_count

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 2.0
"""Seconds between two progress lines where there is no terminal, of a job's first seconds."""
_LINE_EVERY_SHARE = 0.1
"""Of what has passed, later on: a job of an hour leaves some 60 lines."""
_RATE_WINDOW_S = 5.0
"""A rate is that of the last seconds: a slow start does not weigh on it for ever."""
PERCENT = "%"
"""The unit of what is told in shares of 100: no rate is."""
_BAR_COLUMNS = range(8, 25)
"""Narrowest and widest bar."""


class Progress(Protocol):
    """A job under way, as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count ``n`` more units as done; ``fields`` are shown beside them, numbers with a decimal suffix."""

    def tell(self, share: float, left_s: float, **fields: float | str) -> None:
        """Say what share of the total is done, and how long the rest takes, where no rate tells that."""


class Silent:
    """No progress at all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Say nothing."""

    def tell(self, share: float, left_s: float, **fields: float | str) -> None:
        """Say nothing."""


class _Count:
    """What is done, of how much, and how fast of late."""

    def __init__(self, total: float | None, unit: str, done: float) -> None:
        self.total = total
        self.unit = unit
        self.done = done
        self.fields: dict[str, float | str] = {}
        self.started = time.monotonic()
        self._marks = deque([(self.started, done)])
        self._told_s: float | None = None

    def advance(self, n: float, fields: Mapping[str, float | str]) -> None:
        self.done += n
        self.fields = {**self.fields, **fields}  # a new one: the thread that draws may be reading the old one
        now = time.monotonic()
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _RATE_WINDOW_S:
            self._marks.popleft()

    def tell(self, share: float, left_s: float, fields: Mapping[str, float | str]) -> None:
        done = share * (self.total or 0.0)
        self._told_s = left_s
        self.advance(max(0.0, done - self.done), fields)  # never back

    @property
    def per_s(self) -> float:
        """Units per second, 0 where none was done."""
        (since, before), (until, done) = self._marks[0], self._marks[-1]
        return (done - before) / (until - since) if until > since else 0.0

    def done_text(self) -> str:
        if self.unit == PERCENT:
            return f"{int(self.done)}%"
        of_total = "" if self.total is None else f"/{_shown(self.total)}"
        return f"{_shown(self.done)}{of_total} {self.unit}".rstrip()

    def field_texts(self) -> list[str]:
        return [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in self.fields.items()]

    def rate_text(self) -> str:
        if not self.per_s or self.unit == PERCENT:
            return ""
        return f"{_shown(self.per_s)} {self.unit}".rstrip() + "/s"

    def left_text(self) -> str:
        """Say how long it takes from now on, if it is known."""
        if self._told_s is not None:
            return f"{_clock(self._told_s - (time.monotonic() - self._marks[-1][0]))} left"
        if self.total is None or not self.per_s or self.done >= self.total:
            return ""
        # From when something was done last: a bar is drawn between two steps of a minute, too.
        left_s = (self.total - self.done) / self.per_s - (time.monotonic() - self._marks[-1][0])
        return f"{_clock(left_s)} left"


class Lines:
    """Progress as plain lines, for logs: one when there is something new to say, ever more rarely."""

    def __init__(self, description: str, total: float | None, unit: str, done: float = 0.0) -> None:
        self._description = description
        self._args = total, unit, done
        self._count = _Count(*self._args)
        self._at = self._count.started
        self._said: list[str] = []

    def __enter__(self) -> Self:
        self._count = _Count(*self._args)
        self._at = self._count.started
        return self

    def __exit__(self, *_: object) -> None:
        count = self._count
        if count.done != self._args[2] and self._news() != self._said:
            took_s = time.monotonic() - count.started
            self._print(f"in {_clock(took_s)}" if took_s >= 1 else "")

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count, and print when the last line is old enough."""
        self._count.advance(n, fields)
        self._print_in_time()

    def tell(self, share: float, left_s: float, **fields: float | str) -> None:
        """Note it, and print when the last line is old enough."""
        self._count.tell(share, left_s, fields)
        self._print_in_time()

    def _print_in_time(self) -> None:
        now = time.monotonic()
        pause_s = max(_LINE_EVERY_S, _LINE_EVERY_SHARE * (now - self._count.started))
        if now - self._at >= pause_s and self._news() != self._said:
            self._at = now
            self._print(self._count.left_text())

    def _news(self) -> list[str]:
        return [self._count.done_text(), *self._count.field_texts()]

    def _print(self, time_text: str) -> None:
        self._said = self._news()
        parts = [*self._said, self._count.rate_text(), time_text]
        sys.stderr.write(f"{self._description}: {', '.join(filter(None, parts))}\n")
        sys.stderr.flush()


class Bar:
    """Progress as a bar on the terminal, gone when the job is done."""

    def __init__(
        self, description: str, total: float | None, unit: str, done: float = 0.0, *, console: Console
    ) -> None:
        from rich.live import Live

        self._description = description
        self._args = total, unit, done
        self._count = _Count(*self._args)
        self._console = console
        # Drawn anew ten times a second, for the width that the terminal has then.
        self._live = Live(
            get_renderable=self._line,
            console=console,
            transient=True,
            refresh_per_second=10,
            redirect_stdout=False,  # results may go to a file
        )

    def __enter__(self) -> Self:
        self._count = _Count(*self._args)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count; the display refreshes itself."""
        self._count.advance(n, fields)

    def tell(self, share: float, left_s: float, **fields: float | str) -> None:
        """Note it; the display refreshes itself."""
        self._count.tell(share, left_s, fields)

    def _line(self) -> str:
        count = self._count
        share = min(1.0, count.done / count.total) if count.total else None
        return bar_line(
            self._console.width,
            self._description,
            share,
            [count.done_text(), *count.field_texts(), count.rate_text(), count.left_text()],
        )


def bar_line(width: int, description: str, share: float | None, texts: Sequence[str]) -> str:
    """Return one line of at most ``width`` columns: what, a bar, and the ``texts`` that there is room for.

    Args:
        width: columns.
        description: of the job; it is cut where nothing else helps.
        share: that is done, None where it is not known: no bar then.
        texts: how far it is, what is told beside that, the rate, the time left. The first and the last stay
            longest; the rate goes first, then the rest from the left.
    """
    from rich.cells import cell_len, set_cell_size

    done, *fields, rate, left = texts
    bar_columns = _BAR_COLUMNS.start + 1 if share is not None else 0

    def free() -> int:
        shown = filter(None, (done, *fields, rate, left))
        return width - cell_len(description) - bar_columns - sum(2 + cell_len(text) for text in shown)

    if free() < 0:
        rate = ""
    while free() < 0 and fields:
        del fields[0]
    if free() < 0:
        room = max(1, cell_len(description) + free())
        description = set_cell_size(description, room - 1) + "…"
    if free() < 0:
        left = ""
    line = description
    if share is not None:
        n_cells = min(_BAR_COLUMNS.stop - 1, _BAR_COLUMNS.start + max(0, free()))
        n_done = int(share * n_cells)
        line += f" {'━' * n_done}{'─' * (n_cells - n_done)}"
    line = "  ".join([line, *filter(None, (done, *fields, rate, left))])
    return line if cell_len(line) <= width else set_cell_size(line, width)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else format_count(value)


def _clock(seconds: float) -> str:
    """Return a duration as a clock shows it, ``12 s``, ``3:05 min``, ``1:03:05 h``."""
    minutes, rest_s = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest_s:02} h"
    return f"{minutes}:{rest_s:02} min" if minutes else f"{rest_s} s"
