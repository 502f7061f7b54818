"""A page of ``gpuscan run --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import format_bytes, format_number, format_time
from gpuscan.heatmap.map import MAP_FILE
from gpuscan.heatmap.nodes import NODES_FILE
from gpuscan.report.contract import Figure, Page, ResultKind
from gpuscan.report.run_parts import Series, ledger_of, lost_of, map_of, nodes_of, requests_of, waits_of
from gpuscan.run.tables import Tables, read_tables

_TIME = "time of the machine (s)"


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a run that was kept; see :class:`ResultKind`."""
    return page_of_tables(document, read_tables(result))


def page_of_tables(document: Mapping[str, Any], tables: Tables) -> Page:
    """Return what there is to say of a run; see :class:`ResultKind`."""
    workload, machine, summary = document["workload"], document["machine"], document["summary"]
    where = f"{machine['topology']}, {format_bytes(machine['memory_bytes'])}"
    facts = [
        ("machine", f"{where} in {format_number(machine['n_nodes'], 'node')}"),
        ("design", str(document["design"])),
        ("device", str(document["device"]["name"])),
        ("ticks", f"{summary['n_ticks']:,}, {format_time(summary['simulated_ns'])} of the machine's time"),
        ("moved", format_bytes(summary["migrated_bytes"])),
        ("run by", str(document.get("made_by") or _known_of(document))),
    ]
    if summary["fast"] is not None:
        fast = summary["fast"]
        share = f"{fast['before']:.1%} at first, {fast['after']:.1%} at the end"
        facts.insert(2, (f"accesses served by fast memory ({machine['fast_means']})", share))
    facts += lost_of(document, tables)
    if said := document.get("producer_said"):
        facts.append(("producer", str(said)))
    notes = [str(note) for note in document["notes"]]
    figures: list[Figure] = []
    figures += map_of(tables, _TIME)
    if tables.heat is None:
        notes.append(f"No map: this result has no {MAP_FILE} (an earlier gpuscan made it).")
    if not tables.nodes:
        notes.append(f"Nobody knows which node was full: this result has no {NODES_FILE} that says it.")
    figures += _series(Series(tables.series, _TIME))
    figures[len(figures) and 2 : len(figures) and 2] = nodes_of(tables, _TIME)
    figures += [*waits_of(tables), *ledger_of(document)]
    return Page(str(workload["name"]), str(workload["shows"]), tuple(facts), tuple(figures), tuple(notes))


def _known_of(document: Mapping[str, Any]) -> str:
    """Return what is known of the command of a result that an earlier gpuscan made."""
    seed = f", seed {document['machine']['seed']}" if "seed" in document["machine"] else ""
    return f"a gpuscan that did not keep its command: workload {document['workload']['name']}{seed}"


def _series(series: Series) -> list[Figure]:
    figures: list[Figure] = []
    if "metric.accesses_fast" in series.columns:
        figures.append(
            series.plot(
                "Accesses served by fast memory",
                "Rises as hot pages come to where they are accessed from, dips where they are moved away.",
                "of accesses (%)",
                series.ratio("fast", "metric.accesses_fast", "metric.accesses", 100),
            )
        )
    took = series.plot(
        "What it took",
        "Time of the scans of each tick on the computer that ran gpuscan (of another design: modelled), "
        "and of the busiest migrator (modelled).",
        "time per tick (ms)",
        series.mean("scan", "scan_ns", 1e-6),
        series.mean("migration", "migrate_busy_ns", 1e-6),
    )
    return [*figures, *requests_of(series), took]


RESULT_KIND = ResultKind("report.json", "run", page, page_of_tables)
