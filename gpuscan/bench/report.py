"""What a benchmark leaves behind: ``bench.json``, every single run in ``runs.parquet``, and plots.

``bench.json`` has host, settings, ceilings, and under ``scans``, ``requests`` and
``ticks`` one object per case, whose ``results`` are the rows of
:func:`gpuscan.bench.timing.race`. Times are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_count, format_number, format_time
from gpuscan.files.parquet import create_table
from gpuscan.files.writing import Contents, create_json, new_directory

JSON_FILE, RUNS_FILE = "bench.json", "runs.parquet"
CONTENTS = Contents(
    JSON_FILE,
    (
        RUNS_FILE,
        *(
            f"{plot}-*.{suffix}"
            for plot in ("time-by-density", "ratio-to-peers", "time-by-pages", "requests")
            for suffix in ("png", "svg")
        ),
    ),
)
"""Of a report's directory."""
SCALE_CONTENTS = Contents("scale.json", ())
"""All that ``gpuscan bench scale --out`` keeps."""

_RUNS = pa.schema(
    [
        ("what", pa.string()),
        ("n_pages", pa.int64()),
        ("n_targets", pa.int32()),
        ("format", pa.string()),
        ("device", pa.string()),
        ("density", pa.float64()),
        ("clustering", pa.string()),
        ("n_items", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("measured_pages", pa.int64()),
        ("round", pa.int32()),
        ("time_ns", pa.int64()),
    ]
)
_ITEMS = {"scan": "n_ready", "request": "n_requests", "tick": "n_marks"}


def write_report(out: Path, document: Mapping[str, Any], *, plots: bool, force: bool = False) -> None:
    """Fill the directory ``out``; with ``force`` in place of an earlier report there.

    Raises:
        InputError: ``out`` is something else, or plots were asked for without matplotlib.
        RunFailedError: it cannot be written.
    """
    with new_directory(out, CONTENTS, force=force) as directory:
        create_json(directory / JSON_FILE, document)
        create_table(directory / RUNS_FILE, pa.Table.from_pylist(run_rows(document), _RUNS), "snappy")
        if plots:
            from gpuscan.bench.plots import draw

            draw(document, directory)


def write_scale(out: Path, document: Mapping[str, Any], *, force: bool = False) -> None:
    """Fill the directory ``out`` with a document of :mod:`gpuscan.bench.scale`; raises as above."""
    with new_directory(out, SCALE_CONTENTS, force=force) as directory:
        create_json(directory / SCALE_CONTENTS.marker, document)


def run_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per single run, as ``runs.parquet`` has them."""
    rows = []
    for what, n_items in _ITEMS.items():
        for case in document[f"{what}s"]:
            columns = {key: case.get(key) for key in _RUNS.names if key in case}
            for row in case["results"]:
                of_row = {key: row[key] for key in ("name", "kind", "state")}
                measured = row.get("measured_pages", case["n_pages"])
                rows += [
                    {
                        "what": what,
                        **columns,
                        "n_items": case[n_items],
                        **of_row,
                        "measured_pages": measured,
                        "round": index,
                        "time_ns": time_ns,
                    }
                    for index, time_ns in enumerate(row["runs_ns"])
                ]
    return rows


def case_title(case: Mapping[str, Any]) -> str:
    """Return what a case is, for a heading."""
    memory = f"{format_bytes(case['n_pages'] * PAGE_BYTES)}, " if "n_pages" in case else ""
    density = f", density {case['density']:g}" if "density" in case else ""
    where = f", {case['clustering']}" if "clustering" in case else ""
    targets = format_number(case["n_targets"], "target")
    return f"{memory}{targets}, {case['format']} on {case['device']}{density}{where}"


SERIES_KEYS = ("n_pages", "density", "n_targets", "format", "device", "clustering")
"""What tells one case of a scan from another."""


def series_along(cases: Iterable[Mapping[str, Any]], axis: str) -> list[list[Mapping[str, Any]]]:
    """Return cases that differ in ``axis`` alone, ascending in it, at least two of them."""
    groups: dict[tuple[Any, ...], dict[float, Mapping[str, Any]]] = {}
    for case in cases:
        key = tuple(case[name] for name in SERIES_KEYS if name != axis)
        kept = groups.setdefault(key, {})
        # The same point may be in two grids, with and without peers: keep the one that has more.
        if case[axis] > 0 and len(case["results"]) >= len(kept.get(case[axis], {"results": []})["results"]):
            kept[case[axis]] = case
    return [[kept[at] for at in sorted(kept)] for kept in groups.values() if len(kept) > 1]


SCAN_COLUMNS = ("", "caches", "time", "p10", "p90", "read", "of floor", "auto is faster by")


def scan_table(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows under :data:`SCAN_COLUMNS`; peers that did fewer pages show their scaled time."""
    auto = next(row for row in case["results"] if row["name"] == "gpuscan auto" and row["state"] == "cold")
    return [
        (
            row["name"] + ("" if row["scaled_ns"] == row["median_ns"] else " (scaled)"),
            row["state"],
            format_time(row["scaled_ns"]),
            *(format_time(row[key] * row["scaled_ns"] / row["median_ns"]) for key in ("p10_ns", "p90_ns")),
            format_bytes(row["bytes"]) if "bytes" in row else "",
            f"{row['of_floor']:.3g}",
            f"{auto['faster_than'][row['name']]:.3g}" if row["kind"] == "peer" else "",
        )
        for row in case["results"]
    ]


RATIO_COLUMNS = (
    "",
    "caches",
    "time",
    "of read floor",
    "of byte floor",
    "the fastest peer takes",
    "and pages of 64 bits",
)


def ratio_table(cases: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows under :data:`RATIO_COLUMNS`: our paths of every case over floors and peer.

    Each ratio is the median of those of the rounds, with p10 and p90: a slow moment of the machine, or of its
    memory, is in both sides of one. The fastest peer is that of each round, of those that ran at full size.
    """
    return [
        (
            f"{case_title(case)}: {row['name']}",
            row["state"],
            format_time(row["median_ns"]),
            *(_spread(row["runs_ns"], floor) for floor in _floors_by_round(case)),
            _spread(fastest, row["runs_ns"]) if (fastest := _fastest_peer_by_round(case)) else "",
            format_time(row["widening_ns"]) if "widening_ns" in row else "",
        )
        for case in cases
        for row in case["results"]
        if row["kind"] == "gpuscan"
    ]


def _floors_by_round(case: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    copy, read = _row(case, "copy"), _row(case, "read")["runs_ns"]
    share = case["floors"]["written_bytes"] / copy["bytes"]
    return read, [reading + share * copying for reading, copying in zip(read, copy["runs_ns"], strict=True)]


def _fastest_peer_by_round(case: Mapping[str, Any]) -> list[float]:
    peers = [row for row in case["results"] if row["kind"] == "peer" and row["scaled_ns"] == row["median_ns"]]
    return [min(runs) for runs in zip(*(row["runs_ns"] for row in peers), strict=True)]


def _row(case: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(row for row in case["results"] if row["name"] == name)
    return found


def _spread(runs: Sequence[float], of: Sequence[float]) -> str:
    p10, middle, p90 = np.percentile(np.asarray(runs) / np.asarray(of), [10, 50, 90]).tolist()
    return f"{middle:.3g} ({p10:.3g} to {p90:.3g})"


REQUEST_COLUMNS = ("", "time", "p10", "p90", "per second", "of random writes")


def request_table(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows under :data:`REQUEST_COLUMNS`; the last is by round: median, p10 and p90."""
    writes = case["results"][0]["runs_ns"]
    return [
        (row["name"], *_times(row), format_count(row["per_s"]), _spread(writes, row["runs_ns"]))
        for row in case["results"]
    ]


TICK_COLUMNS = ("", "time", "p10", "p90", "its scans", "per mark", "of floor")


def tick_table(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows under :data:`TICK_COLUMNS`."""
    read, tick = case["results"]
    return [
        (read["name"], *_times(read), "", "", "1"),
        (
            tick["name"],
            *_times(tick),
            format_time(tick["scan_ns"]),
            format_time(tick["ns_per_mark"]),
            f"{tick['of_floor']:.3g}",
        ),
    ]


def _times(row: Mapping[str, Any]) -> Sequence[str]:
    return [format_time(row[key]) for key in ("median_ns", "p10_ns", "p90_ns")]
