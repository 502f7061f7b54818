"""The table of docs/notes/programs.md, of files that ``compare`` has printed."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES

from ..peers_table import markdown, read, share

_MIB = 1 << 20
Run = dict[str, Any]


def table(runs: list[Run]) -> str:
    """Return a row for each program and method: medians of all rounds, and the longest gap of any."""
    whole = [run for run in runs if "method" in run]
    at = list(whole[0]["reads_near"]) if whole else []
    head = ["program", "who", "rounds", *(f"reads near after {at_s} s" for at_s in at)]
    rows = [
        [
            *head,
            "hot pages near",
            "others near",
            "moved",
            "reads/s",
            "to nothing done",
            "longest gap",
            "CPU s",
        ]
    ]
    for program in dict.fromkeys(run["program"] for run in runs):
        of_program = [run for run in whole if run["program"] == program]
        methods = list(dict.fromkeys(run["method"] for run in of_program))
        paces = {
            method: statistics.median(run["reads_per_s"] for run in of_program if run["method"] == method)
            for method in methods
        }
        for method in methods:
            of_method = [run for run in of_program if run["method"] == method]
            cells = [program, method, str(len(of_method))]
            cells += [share(_middle([run["reads_near"][at_s] for run in of_method])) for at_s in at]
            cells += [
                share(_middle([run[name] for run in of_method])) for name in ("hot_near", "others_near")
            ]
            moved = _middle([run["migrated_pages"] for run in of_method])
            cells += [f"{(moved or 0) * PAGE_BYTES / _MIB:.1f} MiB", f"{paces[method]:,.0f}"]
            cells += [share(paces[method] / paces["nothing"]) if "nothing" in paces else "-"]
            cells += [f"{max(run['longest_gap_s'] for run in of_method):.2f} s"]
            cpu_s = _middle([run["cpu_s"] for run in of_method])
            rows.append([*cells, "-" if cpu_s is None else f"{cpu_s:.1f}"])
        for run in runs:
            if run["program"] == program and "failed" in run:
                rows.append([program, f"failed: {run['failed']}", *["-"] * (len(rows[0]) - 2)])
    return markdown(rows)


def _middle(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    sys.stdout.write(table(read(Path(name) for name in sys.argv[1:])) + "\n")
