"""The tables of docs/live.md and its notes: ``python -m tests.guest.peers_table FILE...``.

The files are what ``peers`` printed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES

from .peers import IDLE, INTERLEAVED

Run = dict[str, Any]

_MIB = 1 << 20


def read(paths: Iterable[Path]) -> list[Run]:
    """Return all runs."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


def placement_table(runs: list[Run]) -> str:
    """Return one row for each run that was observed to its end."""
    at = next((list(run["hot_near"]) for run in runs if "failed" not in run), [])
    head = ["pattern", "who", *(f"near after {at_s} s" for at_s in at), "moved", "of it cold", "elsewhere"]
    rows = [[*head, "CPU s", "system s of the process", "touches/s", "start"]]
    for run in runs:
        if "failed" in run:
            cells = [run["pattern"], run["method"], f"failed: {run['failed']}"]
            rows.append([*cells, *["-"] * (len(rows[0]) - len(cells))])
            continue
        shares = [share(run["hot_near"][at_s]) for at_s in at]
        cold = run["arrived_cold_pages"] / run["arrived_pages"] if run["arrived_pages"] else None
        cpu = "-" if run["cpu_s"] is None else f"{run['cpu_s']:.1f}"
        moved = f"{run['migrated_pages'] * PAGE_BYTES / _MIB:.1f} MiB"
        who = [run["pattern"], run["method"]]
        work = [cpu, f"{run['process_system_s']:.1f}", f"{run['touched_per_s'] / 1e6:.2f} M"]
        elsewhere = str(run.get("arrived_elsewhere_pages", "-"))
        rows.append([*who, *shares, moved, share(cold), elsewhere, *work, f"{run['startup_s']:.0f} s"])
    return markdown(rows)


def speed_table(runs: list[Run]) -> str:
    """Return the time to 95 % near and the share of cold pages, the median of all rounds and the range."""
    head = ["who", "rounds", "95 % near after, median", "range", "cold of what arrived, median", "worst"]
    rows = [[*head, "elsewhere, worst", "CPU, median"]]
    for method in dict.fromkeys(run["method"] for run in runs):
        of_method = [run for run in runs if run["method"] == method]
        done = [run for run in of_method if "failed" not in run]
        if not done:
            why = of_method[0]["failed"]
            rows.append([method, str(len(of_method)), f"failed: {why}", *["-"] * (len(rows[0]) - 3)])
            continue
        times = [run["time_to_95_s"] for run in done if run["time_to_95_s"] is not None]
        cold = [run["arrived_cold_pages"] / max(1, run["arrived_pages"]) for run in done]
        reached = len(times) == len(of_method)
        median = f"{statistics.median(times):.2f} s" if reached else f"in {len(times)} of {len(of_method)}"
        spread = f"{min(times):.2f}-{max(times):.2f} s" if times else "-"
        elsewhere = [run["arrived_elsewhere_pages"] for run in done if "arrived_elsewhere_pages" in run]
        cpu_s = [run["cpu_s"] for run in done if run["cpu_s"] is not None]
        cells = [median, spread, share(statistics.median(cold)), share(max(cold))]
        cells += [str(max(elsewhere)) if elsewhere else "-"]
        cells += [f"{statistics.median(cpu_s):.2f} s" if cpu_s else "-"]
        rows.append([method, str(len(of_method)), *cells])
    return markdown(rows)


def interleaved_table(runs: list[Run]) -> str:
    """Return where the pages of two processes on different nodes went: medians of all rounds, and ranges."""
    head = ["who", "rounds", "pages that moved, median", "to the wrong node, median", "range"]
    rows = [[*head, "at home at the end, median", "CPU, median"]]
    for method in dict.fromkeys(run["method"] for run in runs):
        of_method = [run for run in runs if run["method"] == method]
        done = [run for run in of_method if "failed" not in run]
        if not done:
            cells = [method, str(len(of_method)), f"failed: {of_method[0]['failed']}"]
            rows.append([*cells, *["-"] * (len(rows[0]) - len(cells))])
            continue
        moved = [run["arrived_right_pages"] + run["arrived_wrong_pages"] for run in done]
        wrong = [run["arrived_wrong_pages"] / max(1, n) for run, n in zip(done, moved, strict=True)]
        cpu_s = [run["cpu_s"] for run in done if run["cpu_s"] is not None]
        cells = [f"{statistics.median(moved):,.0f}", share(statistics.median(wrong))]
        cells += [f"{min(wrong):.1%}-{max(wrong):.1%}"]
        cells += [share(statistics.median(run["right_at_end"] for run in done))]
        cells += [f"{statistics.median(cpu_s):.2f} s" if cpu_s else "-"]
        rows.append([method, f"{len(done)} of {len(of_method)}", *cells])
    return markdown(rows)


def idle_table(runs: list[Run]) -> str:
    """Return what each thread of kmigrated takes of a CPU while nobody does anything, the median."""
    nids = sorted({nid for run in runs for nid in run["thread_cpu_s"]})
    rows = [["who, idle", "rounds", *(f"kmigrated{nid}" for nid in nids)]]
    for method in dict.fromkeys(run["method"] for run in runs):
        done = [run for run in runs if run["method"] == method]
        shares = [statistics.median(run["thread_cpu_s"][nid] / run["for_s"] for run in done) for nid in nids]
        rows.append([method, str(len(done)), *map(share, shares)])
    return markdown(rows)


def share(value: float | None) -> str:
    """Return a share as a cell."""
    return "-" if value is None else f"{value:.1%}"


def markdown(rows: list[list[str]]) -> str:
    """Return rows as a table, the first its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    """Print the tables: runs that ended at 95 % are about speed, the others about placement."""
    runs = read(Path(name) for name in sys.argv[1:])
    early = [run for run in runs if run["until_enough"]]
    whole = [run for run in runs if not run["until_enough"]]
    of_pattern = {
        pattern: [run for run in whole if run["pattern"] == pattern] for pattern in (INTERLEAVED, IDLE)
    }
    placed = [run for run in whole if run["pattern"] not in of_pattern]
    idle = [run for run in of_pattern[IDLE] if run.get("thread_cpu_s")]
    tables = [
        table(some)
        for table, some in (
            (speed_table, early),
            (placement_table, placed),
            (interleaved_table, of_pattern[INTERLEAVED]),
            (idle_table, idle),
        )
        if some
    ]
    sys.stdout.write("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
