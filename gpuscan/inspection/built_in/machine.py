"""Machines in TOML."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.machines import machine_facts, machine_rows
from gpuscan.inspection.text import toml_of
from gpuscan.topology import Topology
from gpuscan.topology.toml import from_toml


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    found = from_toml(path)
    on_read(path.stat().st_size)
    shown = shlex.quote(f"./{path}" if path.parent == Path() else str(path))
    return Findings(
        what="a machine in TOML",
        rows=machine_rows(found),
        facts=machine_facts(found),
        commands=(
            (f"gpuscan topology {shown}", "shows zones, distances and targets"),
            (f"gpuscan run --topology {shown}", "runs the default workload on it"),
            (f"gpuscan compare --topology {shown}", "puts the designs side by side on it"),
        ),
    )


FILE_KIND = FileKind(
    about="machines in TOML", order=40, is_one=lambda path: "nodes" in toml_of(path), look=_look
)
