"""Other tables in Parquet: series of a run, cells of a comparison, measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_number
from gpuscan.files.parquet import footer
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import rows_command
from gpuscan.topology import Topology
from gpuscan.traces.columns import PLACES, TIMES


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    found = footer(path)
    if found is None:
        raise InputError(f"{path} is damaged; make it anew")
    on_read(path.stat().st_size)
    columns, n_rows = found
    rows = [("rows", format_number(n_rows, "row")), *((field.name, str(field.type)) for field in columns)]
    return Findings(
        what="a table in Parquet",
        rows=tuple(rows),
        facts={"rows": n_rows, "columns": {field.name: str(field.type) for field in columns}},
        commands=(rows_command(path),),
    )


def _is_one(path: Path) -> bool:
    """Whether it is a table that has not both a time and a place of accesses, which a trace has."""
    found = footer(path)
    names = set() if found is None else set(found[0].names)
    return found is not None and not (names & set(TIMES) and names & set(PLACES))


FILE_KIND = FileKind(about="other tables in Parquet", order=35, is_one=_is_one, look=_look)
