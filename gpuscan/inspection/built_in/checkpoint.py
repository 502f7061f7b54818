"""Checkpoints of runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.checkpoint.directory import generations
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.topology import Topology


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    found = generations(path)
    if not found:
        raise InputError(f"{path} has no whole checkpoint; run again from the start")
    return Findings(
        what="checkpoints of a run",
        rows=(("checkpoints", ", ".join(map(str, found))),),
        facts={"checkpoints": found},
        commands=((f"gpuscan resume {shlex.quote(str(path))}", "goes on from the last one"),),
    )


FILE_KIND = FileKind(
    about="checkpoints (run --checkpoint)",
    order=20,
    is_one=lambda path: path.is_dir() and bool(generations(path)),
    look=_look,
)
