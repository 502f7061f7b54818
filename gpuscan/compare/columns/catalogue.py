"""All columns: the groups of :mod:`gpuscan.compare.columns.built_in`, and those of other packages."""

from __future__ import annotations

import difflib
from typing import Any

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.compare.columns.contract import Column, Columns

COLUMNS = Catalogue("column", "gpuscan.compare.columns.built_in", Columns, "COLUMNS")
"""By the names of their files, or of entry points of the group ``gpuscan.columns``."""


def all_columns() -> tuple[Column, ...]:
    """Return all columns, in the order in which they are shown.

    Raises:
        InputError: those of another package cannot be used, or have a key that is there already.
    """
    found: dict[str, Column] = {}
    for _, name in sorted((COLUMNS.get(name).order, name) for name in COLUMNS.names):
        for column in COLUMNS.get(name).columns:
            if column.key in found:
                raise InputError(
                    f"the columns {name!r} of {COLUMNS.origin(name) or 'this program'} have the key "
                    f"{column.key!r}, which another one has; mend or uninstall that package"
                )
            found[column.key] = column
    return tuple(found.values())


def columns_called(name: str) -> tuple[Column, ...]:
    """Return the columns of a key or a title (which one of each loop may have), or ``all`` of them.

    Raises:
        InputError: there is none of that name.
    """
    columns, wanted = all_columns(), name.strip().casefold()
    if wanted == "all":
        return columns
    found = [column for column in columns if wanted in (column.key, column.title.strip().casefold())]
    if not found:
        titles = {column.title.strip().casefold(): column.key for column in columns}
        names = {column.key: column.key for column in columns} | titles
        close = difflib.get_close_matches(wanted, names, 1)
        meant = f" (did you mean {names[close[0]]!r}?)" if close else ""
        keys = ", ".join(column.key for column in columns)
        raise InputError(f"unknown row {name!r}{meant}; choose all, {keys}")
    return tuple(found)


def column_document(column: Column) -> dict[str, Any]:
    """Return what a column is, for JSON."""
    return {
        "key": column.key,
        "title": column.title.strip(),
        "explain": column.explain,
        "loop": column.loop,
        "unit": column.unit,
        "drawn": column.drawn,
    }


def column_documents() -> list[dict[str, Any]]:
    """Return what the columns are, for JSON."""
    return [column_document(column) for column in all_columns()]
