"""Workloads in TOML."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.units import format_number, format_time
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.text import toml_of
from gpuscan.topology import Topology
from gpuscan.workload.files import load_workload


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    found = load_workload(str(path.absolute()))
    on_read(path.stat().st_size)
    names = [process.name for process in found.processes]
    shown = shlex.quote(f"./{path}" if path.parent == Path() else str(path))
    rows = [
        ("name", found.name),
        ("machine", f"{found.topology.machine}, {found.topology.memory or 'its size'}"),
        ("processes", f"{len(names)}: {', '.join(names[:8])}{'...' if len(names) > 8 else ''}"),
        ("ticks", f"{format_number(found.ticks, 'tick')} of {format_time(found.tick)}"),
        ("producer", found.producer.kind),
    ]
    if found.source.trace:
        rows.append(("trace", found.source.trace))
    return Findings(
        what="a workload in TOML",
        rows=tuple(rows),
        facts={"workload": found.model_dump(mode="json")},
        commands=(
            (f"gpuscan run {shown}", "runs it"),
            (f"gpuscan run {shown} --set ticks=20", "changes any key of it"),
            (f"gpuscan compare {shown}", "puts the designs side by side on it"),
        ),
    )


def _is_one(path: Path) -> bool:
    return not {"processes", "source", "ticks", "producer", "policy"}.isdisjoint(toml_of(path))


FILE_KIND = FileKind(about="workloads in TOML", order=50, is_one=_is_one, look=_look)
