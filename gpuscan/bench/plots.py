"""The report as pictures, PNG and SVG: time by density, ratio to peers, growth, request rates.

Drawn from ``bench.json`` alone. A figure appears where the report has at least two
points for its axis; the file name says what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.bench.peers.catalogue import PEERS
from gpuscan.bench.report import series_along
from gpuscan.files.writing import create

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by everyone; the floors are grey.
_STYLE: dict[str, dict[str, Any]] = {
    "read": {"color": "0.35", "linestyle": "--", "marker": ""},
    "gpuscan dense": {"color": "#0072B2", "linewidth": 2, "marker": "s"},
    "gpuscan indexed": {"color": "#009E73", "linewidth": 2, "marker": "o"},
    "gpuscan auto": {"color": "black", "linestyle": ":", "linewidth": 2, "marker": ""},
}
_LABEL = {"read": "read floor (records read once)"}
_SHOWN_STATE = "cold"


def require_matplotlib() -> None:
    """Check that plots can be drawn, before an hour of measuring.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401 (only whether it can be)
    except ModuleNotFoundError as error:
        raise InputError(
            f"plots need {error.name}, which is not installed: {install_command('bench', 'matplotlib')}, "
            "or give --no-plots"
        ) from error


def draw(document: Mapping[str, Any], directory: Path) -> list[str]:
    """Draw every figure that the report has the points for; return the names without suffix."""
    require_matplotlib()
    names = []
    for series in series_along(document["scans"], "density"):
        tag = _tag(series[0], "density")
        names.append(save(_by_density(series), directory, f"time-by-density-{tag}"))
        if any(row["kind"] == "peer" for row in series[0]["results"]):
            names.append(save(_ratios(series), directory, f"ratio-to-peers-{tag}"))
    figures = [
        *(
            (_growth(series), f"time-by-pages-{_tag(series[0], 'n_pages')}")
            for series in series_along(document["scans"], "n_pages")
        ),
        *((_requests(case), f"requests-{_tag(case, '')}") for case in document["requests"]),
    ]
    return names + [save(figure, directory, name) for figure, name in figures]


def _tag(case: Mapping[str, Any], axis: str) -> str:
    parts: dict[str, str] = {
        "n_pages": format_bytes(case["n_pages"] * PAGE_BYTES).replace(" ", ""),
        "density": f"{case.get('density', 0):g}",
        "n_targets": f"{case['n_targets']}-targets",
        "format": case["format"],
        "device": case["device"],
        "clustering": case.get("clustering", ""),
    }
    return "-".join(parts[name] for name in parts if name != axis and name in case)


def _title(case: Mapping[str, Any], axis: str) -> str:
    parts: dict[str, str] = {
        "n_pages": f"{format_bytes(case['n_pages'] * PAGE_BYTES)} of memory",
        "density": f"density {case.get('density', 0):g}",
        "n_targets": f"{case['n_targets']} target{'s' * (case['n_targets'] > 1)}",
        "format": f"format {case['format']}",
        "clustering": case.get("clustering", ""),
    }
    return ", ".join(parts[name] for name in parts if name != axis and name in case)


def _figure(width: float = 7.5, n_axes: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.subplots(1, n_axes, squeeze=False)[0]
    for ax in axes:
        ax.grid(True, which="major", linewidth=0.4, alpha=0.6)
    return figure, list(axes)


def save(
    figure: Figure,
    directory: Path,
    name: str,
    dpi: int = 144,
    opening: Callable[[Path], AbstractContextManager[BinaryIO]] = create,
) -> str:
    """Write a figure as PNG and SVG: the same points give the same files.

    Args:
        figure: what was drawn.
        directory: where to.
        name: of the files, without suffix.
        dpi: of the PNG.
        opening: how; by default the directory is being filled, else :func:`gpuscan.files.writing.new_file`.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": PROGRAM}):  # fixed ids, and below no date
        with opening(directory / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=dpi)
        with opening(directory / f"{name}.svg") as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
    return name


def _names(series: Sequence[Mapping[str, Any]]) -> list[str]:
    seen = {row["name"]: row["kind"] for case in series for row in case["results"]}
    peers = sorted(name for name, kind in seen.items() if kind == "peer")
    return [*(name for name in _STYLE if name in seen), *peers]


def _drawn_as(name: str) -> dict[str, Any]:
    """Return the label and the style of a line."""
    if name in _STYLE:
        return {"label": _LABEL.get(name, name), **_STYLE[name]}
    if name not in PEERS:  # of a package that is not installed any more
        return {"label": name, "color": "0.5"}
    peer = PEERS.get(name)
    return {"label": peer.label, **peer.style}


def _values(
    series: Sequence[Mapping[str, Any]], name: str, axis: str, key: str, scale: float = 1.0
) -> tuple[list[float], list[float]]:
    points = [
        (case[axis], row[key] * scale)
        for case in series
        for row in case["results"]
        if row["name"] == name and row["state"] == _SHOWN_STATE
    ]
    return [x for x, _ in points], [y for _, y in points]


def _by_density(series: Sequence[Mapping[str, Any]]) -> Figure:
    figure, (ax,) = _figure()
    for name in _names(series):
        x, y = _values(series, name, "density", "scaled_ns", 1e-6)
        ax.plot(x, y, **_drawn_as(name))
    ax.plot(
        [case["density"] for case in series],
        [case["floors"]["dense_bytes_ns"] * 1e-6 for case in series],
        color="0.6",
        linestyle=":",
        label="byte floor (records read, claims and plan written)",
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="READY pages, share of all pages",
        ylabel="time of one scan, grouped by target (ms)",
        title=_title(series[0], "density"),
    )
    _legend_outside(figure, ax)
    return figure


def _ratios(series: Sequence[Mapping[str, Any]]) -> Figure:
    figure, both = _figure(12.0, 2)
    peers = [row["name"] for row in series[0]["results"] if row["kind"] == "peer"]
    for ax, ours in zip(both, ("gpuscan auto", "gpuscan dense"), strict=True):
        rows = [
            (case["density"], row["faster_than"])
            for case in series
            for row in case["results"]
            if row["name"] == ours and row["state"] == _SHOWN_STATE
        ]
        for peer in peers:
            points = [(density, faster[peer]) for density, faster in rows if peer in faster]
            x, y = [x for x, _ in points], [y for _, y in points]
            ax.plot(x, y, **_drawn_as(peer))
        ax.axhline(1.0, color="0.35", linestyle="--", label="as fast as gpuscan")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="READY pages, share of all pages",
            ylabel=f"time of the peer / time of {ours}",
        )
    figure.suptitle(_title(series[0], "density"))
    _legend_outside(figure, both[0])
    return figure


def _growth(series: Sequence[Mapping[str, Any]]) -> Figure:
    figure, (ax, relative) = _figure(12.0, 2)
    for name in _names(series):
        x, y = _values(series, name, "n_pages", "scaled_ns", 1e-6)
        ax.plot(x, y, **_drawn_as(name))
    x, y = _values(series, "gpuscan dense", "n_pages", "of_floor")
    relative.plot(x, y, label="dense: time / read floor", **_STYLE["gpuscan dense"])
    indexed_ns = _values(series, "gpuscan indexed", "n_pages", "scaled_ns")[1]
    per_candidate = [ns / case["n_ready"] for ns, case in zip(indexed_ns, series, strict=True)]
    candidates = relative.twinx()
    candidates.plot(x, per_candidate, label="indexed: ns per READY page", **_STYLE["gpuscan indexed"])
    candidates.set(ylabel="ns per READY page (indexed)")
    relative.set(ylabel="time / read floor of the same size (dense)")
    ax.set(yscale="log", ylabel="time of one scan, grouped by target (ms)")
    for axes in (ax, relative):
        axes.set_xscale("log", base=2)
        axes.set_xticks([case["n_pages"] for case in series])
        labels = [format_bytes(case["n_pages"] * PAGE_BYTES) for case in series]
        axes.set_xticklabels(labels, rotation=30)
        axes.set_xlabel("memory, in pages of 4 KiB")
    for axes in (relative, candidates):
        axes.set_ylim(0, 1.15 * axes.dataLim.y1)
    drawn = [*ax.get_lines(), *relative.get_lines(), *candidates.get_lines()]
    labels = [str(line.get_label()) for line in drawn]
    figure.legend(drawn, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(_title(series[0], "n_pages"))
    return figure


def _requests(case: Mapping[str, Any]) -> Figure:
    figure, (ax,) = _figure()
    rows = list(reversed(case["results"]))
    colors = {"floor": "0.6", PROGRAM: "#0072B2", "peer": "#E69F00"}
    bars = ax.barh(
        [row["name"] for row in rows],
        [row["per_s"] * 1e-6 for row in rows],
        color=[colors[row["kind"]] for row in rows],
    )
    ax.bar_label(bars, fmt="%.0f", padding=3)
    ceiling = case["results"][0]["per_s"] * 1e-6
    ax.axvline(ceiling, color="0.35", linestyle="--", label="random writes of one record: the ceiling")
    ax.set(
        xlabel=f"million pages per second ({case['n_requests']:,} per call)",
        title=_title(case, ""),
        xlim=(0, None),
    )
    ax.margins(x=0.12)
    ax.legend(fontsize="small", loc="lower right")
    return figure


def _legend_outside(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
