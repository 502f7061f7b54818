"""Documents that gpuscan has printed, or kept with --out: of a run, a scan, a comparison."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuscan.heatmap.map import MAP_FILE
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import json_of
from gpuscan.report.catalogue import has_page
from gpuscan.topology import Topology

_SHOWN = 60


def _document(path: Path) -> Path:
    """Return the document of a directory of results, or the path of a document."""
    if not path.is_dir():
        return path
    documents = sorted(path.glob("*.json"))
    named = [found for found in documents if found.stem in ("report", "live", "scan", "compare", "grid")]
    return (named or documents or [path / "report.json"])[0]


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    place = _document(path)
    document = json_of(place)
    on_read(place.stat().st_size)
    rows = [("kind", str(document.get("kind", "a document of gpuscan")))]
    if path.is_dir():
        rows.append(("files", ", ".join(sorted(found.name for found in path.iterdir()))))
    rows += [(name, _short(value)) for name, value in document.items() if name not in ("kind", "schema")]
    given = shlex.quote(str(path))
    commands = []
    if (path / MAP_FILE).is_file():
        commands.append((f"gpuscan heatmap {given}", "shows where and when"))
    if has_page(path):
        commands.append((f"gpuscan report {given} -o page.html", "makes a page for a browser"))
    tables = sorted(path.glob("*.parquet")) if path.is_dir() else []
    commands += [(f"gpuscan inspect {shlex.quote(str(found))}", "shows what is in it") for found in tables]
    commands.append((f"python -m json.tool {shlex.quote(str(place))}", "shows all of it"))
    return Findings(
        what="a result of gpuscan", rows=tuple(rows), facts={"document": document}, commands=tuple(commands)
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"a table: {', '.join(list(value)[:6])}{', ...' if len(value) > 6 else ''}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_one(path: Path) -> bool:
    return json_of(_document(path)).get("schema") == 1


FILE_KIND = FileKind(about="results (--out, --json)", order=60, is_one=_is_one, look=_look)
