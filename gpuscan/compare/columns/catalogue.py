"""All columns: the groups of :mod:`gpuscan.compare.columns.built_in`, and those of other packages."""

from __future__ import annotations

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


def column_documents() -> list[dict[str, Any]]:
    """Return what the columns are, for JSON."""
    return [
        {
            "key": column.key,
            "title": column.title.strip(),
            "loop": column.loop,
            "unit": column.unit,
            "drawn": column.drawn,
        }
        for column in all_columns()
    ]
