"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, has_numbers: bool = False) -> list[str]:
    """Return the lines of a table; with ``has_numbers`` all columns but the first are aligned right."""
    right = "---:" if has_numbers else "---"
    rule = ["---", *[right] * (len(head) - 1)]
    return [_row(head), f"| {' | '.join(rule)} |", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    for character in "\\|*~_<":
        text = text.replace(character, f"\\{character}")
    return text
