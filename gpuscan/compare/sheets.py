"""The printed table of a comparison: a sheet for each loop and one of costs, cells that are short.

A cell is a number and how it was found out; what else there is to be said of it stands below, once for all
designs of which it is true. Who runs on a store, and is timed for real, comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuscan.base import markdown
from gpuscan.compare.columns.cells import formatted
from gpuscan.designs.catalogue import DESIGNS

MARKS = {"counted": "", "measured": "*", "modelled": "~"}
LEGEND = "~ modelled, * measured on this machine, all others counted"
_TITLES = {"open": "open loop", "closed": "closed loop", "none": "costs"}
_WHY_MAX = 8
"""Characters of a reason that a cell has room for; a longer one stands below."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One part of the table.

    Attributes:
        title: of it.
        names: of the designs, in order; those at the front that are compared with all: ``n_first``.
        rows: title and a cell for each design.
        notes: what is below.
    """

    title: str
    names: tuple[str, ...]
    n_first: int
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def sheets_of(document: Mapping[str, Any]) -> list[Sheet]:
    """Return the table of a comparison's document."""
    given: Sequence[str] = document["designs"]
    ours = [name for name in given if name in DESIGNS and DESIGNS.get(name).runs_on_a_store]
    names = (*ours, *(name for name in given if name not in ours))
    return [_sheet(document, loop, title, names, len(ours)) for loop, title in _TITLES.items()]


def _sheet(document: Mapping[str, Any], loop: str, title: str, names: tuple[str, ...], n_first: int) -> Sheet:
    rows = []
    said: dict[
        tuple[str, tuple[str, ...]], list[str]
    ] = {}  # what is said of which designs, and in which rows
    for column in document["columns"]:
        if column["loop"] != loop:
            continue
        cells = {name: document["cells"][name][column["key"]] for name in names}
        is_empty = all(cell["why_not"] for cell in cells.values())
        if not is_empty:
            rows.append((column["title"], tuple(_text(column["unit"], cells[name]) for name in names)))
        for note, of in _notes(cells, _WHY_MAX if not is_empty else 0).items():
            said.setdefault((note, tuple(of)), []).append(column["title"])
    notes = (
        f"{'; '.join(titles)}: {note} ({'all' if len(of) == len(names) else ', '.join(of)})"
        for (note, of), titles in said.items()
    )
    return Sheet(title, names, n_first, tuple(rows), tuple(notes))


def _text(unit: Any, cell: Mapping[str, Any]) -> str:
    if cell["why_not"]:
        return cell["why_not"] if len(cell["why_not"]) <= _WHY_MAX else "-"
    text = formatted(cell["number"], unit)
    if cell["low"] < cell["high"]:
        spread, _, of_unit = formatted((cell["high"] - cell["low"]) / 2, unit).partition(" ")
        number, _, in_unit = text.partition(" ")
        one_unit = of_unit == in_unit
        text = (
            f"{number} ±{spread} {in_unit}".rstrip() if one_unit else f"{text} ±{spread} {of_unit}".rstrip()
        )
    band = f" {cell['remark']}" if _is_band(cell["remark"]) else ""
    return f"{MARKS[cell['how']]}{text}{band}"


def _is_band(remark: str) -> bool:
    """Return whether a remark is how far off a number may be, which is no number without it."""
    return remark.startswith("±")


def _notes(cells: Mapping[str, Mapping[str, Any]], longest: int) -> dict[str, list[str]]:
    """Return what is to be said below a row, and of which designs; of reasons those that are longer."""
    said: dict[str, list[str]] = {}
    for name, cell in cells.items():
        known = [value for value in cell["values"] if value is not None and value == value]
        if cell["why_not"]:
            text = cell["why_not"] if len(cell["why_not"]) > longest else ""
        else:
            text = "" if _is_band(cell["remark"]) else cell["remark"].strip("()")
            if len(known) < len(cell["values"]):
                text = ", ".join(filter(None, (text, f"{len(known)} of {len(cell['values'])} seeds")))
        if text:
            said.setdefault(text, []).append(name)
    return said


def markdown_of(sheet: Sheet) -> str:
    """Return a sheet as a table in Markdown, with its notes as a list."""
    rows = [[title, *cells] for title, cells in sheet.rows]
    lines = markdown.table([sheet.title, *sheet.names], rows, has_numbers=True)
    if sheet.notes:
        lines += ["", *(f"- {markdown.escaped(note)}" for note in sheet.notes)]
    return "\n".join(lines) + "\n"
