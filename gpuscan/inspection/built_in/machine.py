"""Machines in all that says what a machine has: TOML, trees and archives of them, numactl, lstopo."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.machines import machine_facts, machine_rows
from gpuscan.inspection.text import toml_of
from gpuscan.topology import Topology
from gpuscan.topology.catalogue import MACHINES, knowing, read_machine_file


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    host = read_machine_file(path)
    found = host.topology
    on_read(path.stat().st_size)
    shown = shlex.quote(f"./{path}" if path.parent == Path() else str(path))
    return Findings(
        what=f"a machine: {MACHINES.get(knowing(path)[0]).about}",
        rows=machine_rows(found),
        facts=machine_facts(found),
        commands=(
            (f"gpuscan topology {shown}", "shows zones, distances and targets"),
            (f"gpuscan run --topology {shown}", "runs the default workload on it"),
            (f"gpuscan compare --topology {shown}", "puts the designs side by side on it"),
        ),
        notes=host.notes,
    )


def _is_one(path: Path) -> bool:
    # Of TOML there are workloads, too.
    return bool(knowing(path)) and (path.suffix != ".toml" or "nodes" in toml_of(path))


FILE_KIND = FileKind(
    about="machines (TOML, trees of /proc and /sys and archives of them, numactl, lstopo)",
    order=40,
    is_one=_is_one,
    look=_look,
)
