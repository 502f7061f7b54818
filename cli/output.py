"""What commands say: results on stdout (tables, or one JSON document), notes and progress on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpuscan.base.printable import harmless, harmless_json
from gpuscan.cli.progress import Bar, Lines, Progress, Silent
from gpuscan.cli.streams import ascii_only, can_take
from gpuscan.files.writing import json_text, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Output", "Progress", "terminal", "write_json"]

_PIPE_WIDTH = 160
"""Columns of a wide table that goes to a file or a pipe, where rich would cut it at 80."""
_DUMB = ("dumb", "unknown")
"""Values of TERM for a terminal that cannot redraw a line."""
_SLOW_S = 1.0
"""Seconds after which a step that is usually quick is explained."""
_TEXT_COLUMNS = 4
"""A table of up to as many columns wraps its cells where the terminal is narrow; a wider one is cut
into tables, each with the first column, so that no number is broken."""


def terminal(*, stderr: bool = False) -> Console:
    """Return a rich console that shows text as it is: a file may be called ``[bold]`` or ``:smile:``."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


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
            text = harmless_json(json_text(document)) + "\n"
            sys.stdout.write(text if can_take(text) else ascii_only(text))

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH

    def table(self, table: Table, *, n_first: int = 1) -> None:
        """Print a table: all of it, however narrow the terminal.

        Args:
            table: of one line a cell, headers may have several.
            n_first: columns that each part begins with, where a narrow terminal makes several of it.
        """
        if self.json_mode:
            return
        for column in table.columns:
            column.header = harmless(str(column.header))
            column._cells = [harmless(str(cell)) for cell in column.cells]
        console = terminal()
        width = console.width if console.is_terminal else _PIPE_WIDTH
        for number, part in enumerate(_parts(table, width, n_first)):
            if number:
                self.line()
            self._print(console, part)

    def _print(self, console: Console, table: Table) -> None:
        for column in table.columns:
            column.overflow = "fold"  # by default rich cuts a long word
        if console.is_terminal:
            console.print(table)
            return
        console.width = 1 << 16  # a command to copy, or a path, is one line in a log
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

    def progress(
        self, description: str, total: float | None, *, unit: str = "", done: float = 0.0
    ) -> Progress:
        """Return a progress display: a bar on a terminal, else lines now and then; silent when quiet.

        Args:
            description: what is being done.
            total: units of the whole job, None when not known.
            unit: what one unit is, in the plural: ``ticks``.
            done: units that were done before.
        """
        if self.quiet:
            return Silent()
        description = harmless(description)
        if sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB:
            return Bar(description, total, unit, done, console=terminal(stderr=True))
        return Lines(description, total, unit, done)


def _parts(table: Table, width: int, n_first: int) -> list[Table]:
    """Return ``table``, or several that each take up to ``width`` columns and begin with its first columns.

    Before it is divided, headers of several words are broken at their hyphens.
    """
    from rich.cells import cell_len
    from rich.table import Table

    columns = table.columns
    cells = [max((cell_len(str(cell)) for cell in column.cells), default=0) for column in columns]
    headers = [str(column.header) for column in columns]
    widths = [max(cell, cell_len(header)) for cell, header in zip(cells, headers, strict=True)]
    gap = 2
    if len(columns) <= _TEXT_COLUMNS or sum(widths) + gap * (len(columns) - 1) <= width:
        return [table]
    for position, column in enumerate(columns[1:], 1):
        lines = headers[position].replace("-", "-\n").split("\n")
        column.header = "\n".join(lines)
        widths[position] = max(cells[position], *map(cell_len, lines))
    first = list(range(n_first))
    groups: list[list[int]] = [[*first]]
    taken_first = taken = sum(widths[position] for position in first) + gap * (n_first - 1)
    for position in range(n_first, len(columns)):
        if len(groups[-1]) > n_first and taken + gap + widths[position] > width:
            groups.append([*first])
            taken = taken_first
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
