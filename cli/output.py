"""What commands say: results on stdout (tables, or one JSON document), notes and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from gpuscan.units import format_count
from gpuscan.writing import json_text, write_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Output", "Progress", "write_json"]

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where rich would cut it at 80."""
_LINE_EVERY_S = 1.0
"""Seconds between two progress lines where there is no terminal."""


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
            sys.stdout.write(json_text(document) + "\n")

    def table(self, table: Table) -> None:
        """Print a table."""
        if not self.json_mode:
            from rich.console import Console

            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = _PIPE_WIDTH
            console.print(table)

    def line(self, text: str = "") -> None:
        """Print one line as it is."""
        if not self.json_mode:
            sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Tell the user something that is not a result."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

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
        return display(description, total, unit)


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
        self._started = self._printed = time.monotonic()
        self._printed_done: float | None = None

    def __enter__(self) -> Self:
        self._started = self._printed = time.monotonic()
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
        rate = self._done / max(now - self._started, 1e-9)
        parts = [
            f"{_shown(self._done)}{of_total} {self._unit}".rstrip(),
            *_pairs(self._fields),
            f"{_shown(rate)} {self._unit}".rstrip() + "/s",
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
        self._started = time.monotonic()
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
        self._started = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, n: float = 1, **fields: float | str) -> None:
        """Count; the display refreshes itself ten times a second."""
        self._done += n
        self._fields.update(fields)
        of_total = "" if self._total is None else f"/{_shown(self._total)}"
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        parts = [
            f"{_shown(self._done)}{of_total} {self._unit}".rstrip(),
            *_pairs(self._fields),
            f"{_shown(rate)}/s",
        ]
        self._progress.update(self._task, completed=self._done, text="  ".join(parts))


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else format_count(value)


def _pairs(fields: Mapping[str, float | str]) -> list[str]:
    return [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in fields.items()]
