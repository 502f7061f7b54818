"""``gpu.md``: the figures as tables, and the bars of the project beside what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuscan.base.units import format_bytes, format_count, format_time

_EMULATED = (
    "**Emulated: nothing here is a measurement.** The run only shows that checks, figures and tables work."
)
_64_TIB_PAGES = 1 << 34
_GRAPH_FROM = 2.0
"""How much faster a sparse scan must become for a CUDA graph to be worth having."""
Rows = Sequence[Mapping[str, Any]]


def markdown(document: Mapping[str, Any]) -> str:
    """Return the report of a run, also of one that is not finished."""
    parts = document["parts"]
    verdict = {None: "not known yet", True: "yes", False: "**no**"}[document["correct"]]
    lines = [
        f"# {document['device']}",
        "",
        *([_EMULATED, ""] if document["rig"] == "emulated" else []),
        *_table(
            ("", ""),
            [
                ("recorded", document["recorded"]),
                ("device", document["describe"]),
                ("driver", document["driver"]),
                ("CuPy", document["cupy"]),
                ("kernel sources", f"`{document['kernel_sources']}`"),
                ("scale", document["scale"]),
                ("all checks and answers right", verdict),
            ],
        ),
    ]
    for name, part in parts.items():
        lines += [f"## {name}", ""]
        if "error" in part:
            lines += [f"**Failed:** {part['error'].splitlines()[0]}", ""]
        lines += _SECTIONS[name](part["results"])
        lines += [f"- **{_named(row)}: {row['error']}**" for row in part["results"] if "error" in row]
        lines += [f"- {_named(row)}: {row['left_out']}" for row in part["results"] if "left_out" in row]
        lines += [""] * (lines[-1] != "")
    bars = list(_bars(parts))
    if document["rig"] == "emulated":
        bars = [(*bar[:3], "not measured") for bar in bars]
    if bars:
        lines += ["## bars", "", *_table(("", "bar", "reached", ""), bars)]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> list[str]:
    ruled = "|".join("---" if index == 0 else "---:" for index in range(len(head)))
    if not rows:
        return []
    return [
        f"| {' | '.join(head)} |",
        f"|{ruled}|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
        "",
    ]


def _named(row: Mapping[str, Any]) -> str:
    return str(row.get("case") or row.get("tool") or "left out")


def _finished(results: Rows) -> Rows:
    return [row for row in results if "left_out" not in row and "error" not in row]


def _checks(results: Rows) -> list[str]:
    rows = [
        (
            row["case"],
            row["twin"],
            sum(row["compared"].values()),
            "yes" if row["complete"] else "time ran out",
        )
        for row in _finished(results)
    ]
    return _table(("store", "equal to", "comparisons", "complete"), rows)


def _ceilings(results: Rows) -> list[str]:
    rows = []
    for row in _finished(results):
        for name in ("read", "copy"):
            rate = f"{format_count(row[f'{name}_bytes_per_s'])}B/s"
            rows.append((name, format_bytes(row["buffer_bytes"]), *_times(row[name]), rate))
    return _table(("", "buffer", "median", "p10", "p90", "moved"), rows)


def _times(times: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(format_time(times[key]) for key in ("median_ns", "p10_ns", "p90_ns"))


def _scans(results: Rows) -> list[str]:
    rows = []
    for case in _finished(results):
        claims = "exclusive" if case["exclusive"] else "atomic"
        for row in case["results"]:
            wall = format_time(row["wall"]["median_ns"]) if row["wall"] else ""
            rows.append(
                (
                    f"{format_bytes(case['memory_bytes'])}, {case['format']}, {claims}",
                    case["n_targets"],
                    f"{case['density']:g}" + f", {case['lie']}" * (case["lie"] != "uniform"),
                    row["name"] + (f" ({', '.join(row['paths'])})" if row["name"] == "auto" else ""),
                    *_times(row["kernel"]),
                    *_modelled(row),
                    _ratio(row["of_floor"]),
                    format_time(row["span"]["median_ns"]),
                    wall,
                )
            )
    head = ("store", "targets", "density", "", "kernels", "p10", "p90", *_MODELLED, "of read", "span")
    return _table((*head, "with transfer"), rows)


def _micro(results: Rows) -> list[str]:
    rows = [
        (
            row["name"],
            *_times(row["kernel"]),
            *_modelled(row),
            _rate(row),
        )
        for case in _finished(results)
        for row in case["results"]
    ]
    return _table(("", "kernel", "p10", "p90", *_MODELLED, "each, or rate"), rows)


_MODELLED = ("modelled", "of modelled")


def _rate(row: Mapping[str, Any]) -> str:
    if "each_ns" in row:
        return format_time(row["each_ns"])
    if "bytes" in row:
        return f"{format_count(row['bytes_per_s'])}B/s"
    return f"{format_count(row['records_per_s'])} records/s"


def _modelled(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what was expected, and how many times that the kernels took."""
    expected_ns = row.get("modelled_ns")
    if not expected_ns:
        return "", ""
    return format_time(expected_ns), f"{row['kernel']['median_ns'] / expected_ns:.2f}x"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _requests(results: Rows) -> list[str]:
    rows = [
        (
            row["name"],
            *_times(row["kernel"]),
            *_modelled(row),
            f"{format_count(row['per_s'])}/s",
            _ratio(row["of_ceiling"]),
        )
        for case in _finished(results)
        for row in case["results"]
    ]
    return _table(("", "kernels", "p10", "p90", *_MODELLED, "rate", "of random atomics"), rows)


def _launches(results: Rows) -> list[str]:
    rows = [
        (
            f"{format_bytes(row['memory_bytes'])}, density {row['density']:g}",
            row["n_launches"],
            format_time(row["kernels_ns"]),
            *(format_time(row["wall"][way]["median_ns"]) for way in ("scan", "launches", "graph")),
            f"{row['graph_speedup']:.3g}x",
            "yes" if row["graph_speedup"] >= _GRAPH_FROM else "no",
        )
        for row in _finished(results)
    ]
    head = ("indexed scan", "launches", "kernels", "scan, with transfer", "launches alone", "as a graph")
    return _table((*head, "scan with a graph", f"build one ({_GRAPH_FROM:g}x)"), rows)


def _overlap(results: Rows) -> list[str]:
    rows = [
        (
            f"{format_bytes(row['memory_bytes'])}, density {row['density']:g}",
            row["n_plans"],
            format_bytes(row["plan_bytes"]),
            format_time(row["kernels_ns"]),
            *(format_time(row["wall"][way]["median_ns"]) for way in ("waited", "overlapped")),
            f"{row['overlap_speedup']:.3g}x",
        )
        for row in _finished(results)
    ]
    head = (
        "dense round",
        "plans",
        "bytes of plans",
        "kernels",
        "each waited for",
        "next scan begun first",
        "",
    )
    return _table(head, rows)


def _sanitizers(results: Rows) -> list[str]:
    rows = [(row["tool"], "nothing found", row["summary"]) for row in _finished(results)]
    return _table(("tool", "", "summary"), rows)


def _ncu(results: Rows) -> list[str]:
    rows = [
        (
            launch["kernel"],
            format_time(launch.get("time") or 0),
            f"{format_count(launch.get('dram_bytes_per_s') or 0)}B/s",
            _ratio(launch.get("dram_percent_of_peak")),
            _ratio(launch.get("occupancy_percent")),
        )
        for row in _finished(results)
        for launch in row["launches"]
    ]
    return _table(("kernel", "time", "DRAM", "% of peak", "occupancy %"), rows)


_SECTIONS = {
    "correctness": _checks,
    "ceilings": _ceilings,
    "micro": _micro,
    "scans": _scans,
    "formats": _scans,
    "skew": _scans,
    "budgets": _scans,
    "residency": _scans,
    "requests": _requests,
    "launches": _launches,
    "overlap": _overlap,
    "large": _scans,
    "sanitizers": _sanitizers,
    "ncu": _ncu,
}


def _bars(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield what was aimed at beside what was reached, as far as it was measured."""
    for case in _finished(parts.get("scans", {}).get("results", ())):
        rows = {row["name"]: row for row in case["results"]}
        where = f"density {case['density']:g}, {case['n_targets']} targets"
        most = _dense_bar(case["density"], case["exclusive"])
        if most is not None and rows["dense"]["of_least_bytes"] is not None:
            claims = "exclusive" if case["exclusive"] else "atomic"
            yield _bar(f"dense / byte floor, {where}, {claims}", rows["dense"]["of_least_bytes"], most=most)
        for name, row in rows.items():
            if name.startswith("CuPy"):
                # It moves 15 bytes a page: 3.75 times the 4 that are read here.
                yield _bar(f"{name} / dense, {where}", _times_faster(row, rows["dense"]), least=3)
                if case["density"] <= 1e-4:
                    yield _bar(f"{name} / auto, {where}", _times_faster(row, rows["auto"]), least=25)
            if name.startswith("CUB"):
                yield _bar(f"{name} / dense, {where}", _times_faster(row, rows["dense"]), least=1.3)
    yield from _skew_bars(_finished(parts.get("skew", {}).get("results", ())))
    for case in _finished(parts.get("large", {}).get("results", ())):
        if case["n_pages"] == _64_TIB_PAGES:
            (indexed,) = (row for row in case["results"] if row["name"] == "indexed")
            reached = indexed["kernel"]["median_ns"] / 1e6
            yield _bar(f"indexed 64 TiB at 1e-4, {case['format']}", reached, most=0.3, unit=" ms")
    for case in _finished(parts.get("requests", {}).get("results", ())):
        for row in case["results"]:
            if row["name"].startswith("request"):
                yield _bar(f"random {row['name']}", row["per_s"] / 1e9, least=3, unit=" G/s")


def _skew_bars(cases: Rows) -> Iterator[tuple[str, str, str, str]]:
    even = {(case["format"], case["density"]): case for case in cases if case["lie"] == "uniform"}
    for case in cases:
        beside = even.get((case["format"], case["density"]))
        if case["lie"] == "uniform" or beside is None:
            continue
        for mine, its in zip(case["results"], beside["results"], strict=True):
            if mine["name"] in ("dense", "indexed"):
                what = f"{mine['name']}, {case['lie']} / uniform, {case['format']}, {case['density']:g}"
                ratio = mine["kernel"]["median_ns"] / max(1, its["kernel"]["median_ns"])
                yield _bar(what, ratio, most=1.3)


def _dense_bar(density: float, exclusive: bool) -> float | None:
    if density <= 1e-3:
        return 1.1
    if density <= 1e-2:
        return 1.25
    return 2.5 if density == 1.0 and exclusive else None


def _times_faster(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> float:
    return float(peer["span"]["median_ns"] / max(1, ours["span"]["median_ns"]))


def _bar(
    what: str, reached: float, *, most: float | None = None, least: float | None = None, unit: str = "x"
) -> tuple[str, str, str, str]:
    if most is not None:
        return what, f"<= {most:g}{unit}", f"{reached:.3g}{unit}", "yes" if reached <= most else "**no**"
    enough = least is not None and reached >= least
    return what, f">= {least:g}{unit}", f"{reached:.3g}{unit}", "yes" if enough else "**no**"
