"""What commands say: results on stdout (tables, or one JSON document), notes and progress on stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from gpuscan.printable import harmless, harmless_json
from gpuscan.units import format_count
from gpuscan.writing import json_text, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Output", "Progress", "write_json"]

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where rich would cut it at 80."""
_LINE_EVERY_S = 1.0
"""Seconds between two progress lines where there is no terminal."""
_RATE_WINDOW_S = 5.0
"""A rate is that of the last seconds: a slow start does not weigh on it for ever."""
_SLOW_S = 1.0
"""Seconds after which a step that is usually quick is explained."""
_TEXT_COLUMNS = 4
"""A table of up to as many columns wraps its cells where the terminal is narrow; a wider one is cut
into tables, each with the first column, so that no number is broken."""


class Progress(Protocol):
    """A job under way, as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count ``n`` more units as done; ``fields`` are shown beside them, numbers with a decimal suffix."""


class Output:
    """The voice of one command.

    With ``json_mode`` only :meth:`document` writes to stdout, otherwise only
    :meth:`table` and :meth:`line` do, so a command hands over both and asks nothing.
    ``quiet`` silences notes and progress.
    """

    def __init__(self, json_mode: bool, *, quiet: bool = False) -> None:
        self.json_mode = json_mode
        self.quiet = quiet

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document of the command, ``"schema": 1`` first; NumPy values are welcome."""
        if self.json_mode:
            sys.stdout.write(harmless_json(json_text(document)) + "\n")

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH

    def table(self, table: Table) -> None:
        """Print a table: all of it, however narrow the terminal."""
        if self.json_mode:
            return
        from rich.console import Console

        for column in table.columns:
            column.header = harmless(str(column.header))
            column._cells = [harmless(str(cell)) for cell in column.cells]
        # What is in a cell may be from a file: "[/b]" is no markup, ":bug:" no picture.
        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        for number, part in enumerate(_parts(table, console.width)):
            if number:
                self.line()
            self._print(console, part)

    def _print(self, console: Console, table: Table) -> None:
        for column in table.columns:
            column.overflow = "fold"  # by default rich cuts a long word
        if console.is_terminal:
            console.print(table)
            return
        with console.capture() as captured:
            console.print(table)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def line(self, text: str = "") -> None:
        """Print one line, wrapped where it is longer than the terminal is wide."""
        if self.json_mode:
            return
        if sys.stdout.isatty():
            text = "\n".join(
                textwrap.fill(line, self.width, break_on_hyphens=False) for line in text.split("\n")
            )
        sys.stdout.write(harmless(text) + "\n")

    def text(self, text: str) -> None:
        """Print text to be redirected into a file: as it is, never wrapped."""
        if not self.json_mode:
            sys.stdout.write(harmless(text))

    def note(self, text: str) -> None:
        """Tell the user something that is not a result."""
        if not self.quiet:
            sys.stderr.write(harmless(text) + "\n")

    @contextmanager
    def note_if_slow(self, text: str) -> Iterator[None]:
        """Give the note ``text`` once the block has taken longer than a second."""
        timer = threading.Timer(_SLOW_S, self.note, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def progress(self, description: str, total: float | None, *, unit: str = "") -> Progress:
        """Return a progress display: a bar on a terminal, else about one line a second; silent when quiet.

        Args:
            description: what is being done.
            total: units of the whole job, None when not known.
            unit: what one unit is, in the plural: ``ticks``.
        """
        if self.quiet:
            return _Silent()
        display = _Bar if sys.stderr.isatty() else _Lines
        return display(harmless(description), total, unit)


def _parts(table: Table, width: int) -> list[Table]:
    """Return ``table``, or several that each take up to ``width`` columns and begin with its first column."""
    from rich.cells import cell_len
    from rich.table import Table

    columns = table.columns
    widths = [max(cell_len(str(cell)) for cell in (column.header, *column.cells)) for column in columns]
    gap = 2
    if len(columns) <= _TEXT_COLUMNS or sum(widths) + gap * (len(columns) - 1) <= width:
        return [table]
    groups: list[list[int]] = [[0]]
    taken = widths[0]
    for position in range(1, len(columns)):
        if len(groups[-1]) > 1 and taken + gap + widths[position] > width:
            groups.append([0])
            taken = widths[0]
        groups[-1].append(position)
        taken += gap + widths[position]
    parts = []
    for group in groups:
        part = Table(
            *(columns[position].copy() for position in group),
            box=None,
            show_header=table.show_header,
            header_style=table.header_style,
            pad_edge=False,
        )
        for row in zip(*(columns[position].cells for position in group), strict=True):
            part.add_row(*row)
        parts.append(part)
    return parts


class _Rate:
    """Units per second of the last seconds."""

    def __init__(self) -> None:
        self._marks = deque([(time.monotonic(), 0.0)])

    def at(self, done: float) -> float:
        """Return the rate now that ``done`` units are."""
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _RATE_WINDOW_S:
            self._marks.popleft()
        since, before = self._marks[0]
        return (done - before) / max(now - since, 1e-9)


class _Silent:
    """No progress at all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Say nothing."""


class _Lines:
    """Progress as plain lines, for logs. A job shorter than the interval leaves the last line only."""

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._done = 0.0
        self._fields: dict[str, float | str] = {}
        self._rate = _Rate()
        self._printed = time.monotonic()
        self._printed_done: float | None = None

    def __enter__(self) -> Self:
        self._rate = _Rate()
        self._printed = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._done and self._done != self._printed_done:
            self._print(time.monotonic())

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count, and print when the last line is old enough."""
        self._done += n
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._printed >= _LINE_EVERY_S:
            self._print(now)

    def _print(self, now: float) -> None:
        self._printed, self._printed_done = now, self._done
        of_total = "" if self._total is None else f"/{_shown(self._total)}"
        parts = [
            f"{_shown(self._done)}{of_total} {self._unit}".rstrip(),
            *_pairs(self._fields),
            f"{_shown(self._rate.at(self._done))} {self._unit}".rstrip() + "/s",
        ]
        sys.stderr.write(f"{self._description}: {', '.join(parts)}\n")


class _Bar:
    """Progress as a bar on the terminal, gone when the job is done."""

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._total = total
        self._unit = unit
        self._done = 0.0
        self._fields: dict[str, float | str] = {}
        self._rate = _Rate()
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(description, total=total, text="")

    def __enter__(self) -> Self:
        self._rate = _Rate()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count; the display refreshes itself ten times a second."""
        self._done += n
        self._fields.update(fields)
        of_total = "" if self._total is None else f"/{_shown(self._total)}"
        parts = [
            f"{_shown(self._done)}{of_total} {self._unit}".rstrip(),
            *_pairs(self._fields),
            f"{_shown(self._rate.at(self._done))}/s",
        ]
        self._progress.update(self._task, completed=self._done, text="  ".join(parts))


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else format_count(value)


def _pairs(fields: Mapping[str, float | str]) -> list[str]:
    return [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in fields.items()]
