"""A comparison as pictures, PNG and SVG; drawn from ``compare.json`` alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.units import format_bytes
from gpuscan.bench.plots import require_matplotlib, save
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import PlotStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTS = ("delay-cdf", "delay-by-place", "batch-fill", "fast-share", "scan-by-memory")
"""Names of the plots."""
EQUAL_COST_PLOT = "delay-by-share"
"""Of the one that is there where designs were run at equal cost."""
COLUMNS_PLOT = "columns"
"""Of the one that is there where columns ask to be drawn."""
FOUND_NONE = "found none"
_DPI = 110
_POINTS: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5, "markeredgecolor": "0.2"}
_NOT_INSTALLED = PlotStyle(order=1 << 20, line={"color": "0.5", "linewidth": 1.6, "linestyle": "--"})
"""Of a design in a document that is of a package which is not here."""


def style_of(name: str) -> PlotStyle:
    """Return how a design is drawn."""
    return DESIGNS.get(name).plot if name in DESIGNS else _NOT_INSTALLED


def draw(document: Mapping[str, Any], directory: Path) -> list[str]:
    """Draw every plot that the comparison has points for; return the names without suffix."""
    require_matplotlib()
    figures = {
        "delay-cdf": _delay_cdf(document),
        "delay-by-place": _delay_by_place(document),
        "batch-fill": _batch_fill(document),
        "fast-share": _fast_share(document),
        "scan-by-memory": _scan_by_memory(document),
    }
    if any(document.get("equal_cost", {}).values()):
        figures[EQUAL_COST_PLOT] = _delay_by_share(document)
    drawn = [column for column in document["columns"] if column.get("drawn")]
    if drawn:
        figures[COLUMNS_PLOT] = _columns(document, drawn)
    return [save(figure, directory, name, _DPI) for name, figure in figures.items()]


def new_figure(
    width: float = 7.5, height: float = 4.8, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of axes, row by row, grid lines drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.grid(True, which="major", linewidth=0.4, alpha=0.6)
    return figure, axes


def legend_below(figure: Figure, ax: Axes, columns: int = 4) -> None:
    """Put the legend of ``ax`` under the plots."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


def _about(document: Mapping[str, Any], loop: str) -> str:
    machine = document["machine"]
    where = f"{document['workload']['name']}, {format_bytes(machine['memory_bytes'])}"
    if loop == "open":
        return f"{where}; open loop, {document['open_loop'][0]['requests']:,} requests{_seed(document)}"
    return f"{where}; closed loop{_seed(document)}"


def _seed(document: Mapping[str, Any]) -> str:
    """Return which seed curves are of, where there are several."""
    seeds = document["seeds"]
    return f", seed {seeds[0]} (one of {len(seeds)})" if len(seeds) > 1 else ""


def _curves(document: Mapping[str, Any], what: str) -> list[tuple[str, Mapping[str, Any]]]:
    curves = document["curves"]
    return [(name, curves[name][what]) for name in _in_order(curves)]


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: style_of(name).order)


def _without(names: Sequence[str], why: str) -> str:
    """Return a line for a title that names designs of which there is nothing to draw, "" for none."""
    return f"\nnot here, {why}: {', '.join(names)}" if names else ""


def _ms(ns: Sequence[float]) -> list[float]:
    return [value * 1e-6 for value in ns]


def _delay_cdf(document: Mapping[str, Any]) -> Figure:
    figure, (ax,) = new_figure()
    curves = _curves(document, "delay")
    for name, curve in curves:
        if curve["ns"]:
            found = [100 * share for share in curve["share"]]
            ax.plot(_ms(curve["ns"]), found, label=name, **style_of(name).line)
    firsts = [ns[len(ns) // 100] * 1e-6 for _, curve in curves if (ns := curve["ns"])]
    ax.set(
        xscale="log",
        xlim=(max(1e-6, min(firsts, default=1.0)), None),
        xlabel="time from the mark until the scan finds the page (ms)",
        ylabel="requests found by then (%)",
        ylim=(0, 100),
        title=_about(document, "open") + _without([n for n, curve in curves if not curve["ns"]], FOUND_NONE),
    )
    legend_below(figure, ax)
    return figure


def _delay_by_place(document: Mapping[str, Any]) -> Figure:
    figure, (ax,) = new_figure()
    shaded, none = [], []
    for name, curve in _curves(document, "delay_by_place"):
        place = [100 * share for share in curve["place"]]
        if len(place) < 2:
            none.append(name)
            continue
        ax.plot(place, _ms(curve["p50_ns"]), label=name, **style_of(name).line)
        if style_of(name).shaded:
            shaded.append(name)
            colour = style_of(name).line["color"]
            ax.fill_between(place, _ms(curve["p10_ns"]), _ms(curve["p90_ns"]), color=colour, alpha=0.12)
    ax.set(
        ylim=(0, None),
        xlabel="where the page lies in its zone (% of the zone's span)",
        ylabel="median time from mark to found (ms)",
        title=_about(document, "open")
        + (f"\nshaded: 10th to 90th percentile of {' and '.join(shaded)}" if shaded else "")
        + _without(none, FOUND_NONE),
    )
    legend_below(figure, ax)
    return figure


def _batch_fill(document: Mapping[str, Any]) -> Figure:
    curves = [(name, curve) for name, curve in _curves(document, "fill") if sum(curve["batches"])]
    n_columns = min((4, 3), key=lambda n: (-len(curves) % n, -n))  # with the fewest places left empty
    most = max((100 * max(curve["batches"]) / sum(curve["batches"]) for _, curve in curves), default=100.0)
    n_rows = max(1, -(-len(curves) // n_columns))
    figure, axes = new_figure(11.0, 2.6 * n_rows + 0.6, n_rows, n_columns)
    for ax, (name, curve) in zip(axes, curves, strict=False):
        total = sum(curve["batches"])
        edges = curve["edges"]
        ax.bar(
            [100 * edge for edge in edges[:-1]],
            [100 * count / total for count in curve["batches"]],
            width=100 * (edges[1] - edges[0]),
            align="edge",
            color=style_of(name).line["color"],
            edgecolor="0.3",
            linewidth=0.3,
        )
        limit = f"{curve['limit']} {curve['unit']}"
        ax.set(
            xlim=(0, 104), ylim=(0, min(100, 1.1 * most)), title=f"{name}\n{total:,} batches of up to {limit}"
        )
        ax.title.set_fontsize("small")
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    figure.supxlabel("what a batch holds (% of what it may hold)")
    figure.supylabel("batches (%)")
    none = [name for name, curve in _curves(document, "fill") if not sum(curve["batches"])]
    figure.suptitle(_about(document, "open") + _without(none, "no batch"))
    return figure


def _fast_share(document: Mapping[str, Any]) -> Figure:
    figure, (ax,) = new_figure()
    for name, curve in _curves(document, "fast"):
        share = [float("nan") if value is None else 100 * value for value in curve["share"]]
        ax.plot([ns * 1e-9 for ns in curve["time_ns"]], share, label=name, **style_of(name).line)
    low, high = ax.get_ylim()
    ax.set(
        ylim=(max(0, low), min(100, high)),
        xlabel="simulated time (s)",
        ylabel="accesses served by fast memory (%)",
        title=_about(document, "closed"),
    )
    legend_below(figure, ax)
    return figure


def _scan_by_memory(document: Mapping[str, Any]) -> Figure:
    """Return the model with its band, and the points that were measured."""
    figure, (ax,) = new_figure(height=5.6)
    none = []
    for name, curve in _curves(document, "scan"):
        sizes, ns, style = curve["memory_bytes"], curve["ns"], style_of(name).line
        if not sizes:
            none.append(name)
            continue
        ax.plot(sizes, _ms(ns), label=name, **style)
        band = [(1 - error, 1 + error) for error in curve.get("error", [0.0] * len(sizes))]
        lows, highs = zip(
            *((low * at, high * at) for (low, high), at in zip(band, ns, strict=True)), strict=True
        )
        ax.fill_between(sizes, _ms(lows), _ms(highs), color=style["color"], alpha=0.15, linewidth=0)
        measured = curve.get("measured", {"memory_bytes": [], "ns": []})
        ax.plot(measured["memory_bytes"], _ms(measured["ns"]), **_POINTS | {"color": style["color"]})
    ticks = [1 << shift for shift in range(30, 47, 2)]
    ax.set_xscale("log", base=2)
    ax.set(
        yscale="log",
        xlabel="memory that is scanned",
        ylabel="time of one scan, one thread (ms)",
        title=(
            f"lines: modelled from steps measured on {document['host']['cpu']}, and how far off that may be\n"
            f"points: measured; one page in {1 / document['model']['density']:,.0f} is READY, spread evenly"
            + _without(none, "no model")
        ),
    )
    ax.title.set_fontsize("small")
    ax.set_xticks(ticks, [format_bytes(tick) for tick in ticks], rotation=30)
    legend_below(figure, ax)
    return figure


def _delay_by_share(document: Mapping[str, Any]) -> Figure:
    """Return the median delay of each design by what its threads take of a core; every run is a point."""
    figure, (ax,) = new_figure(height=5.6)
    first = document["seeds"][0]
    runs = document["equal_cost"]
    for name in _in_order(name for name in runs if runs[name]):
        style = style_of(name).line
        mine = sorted(
            (100 * run["share"], run["p50_ns"] * 1e-6) for run in runs[name] if run["seed"] == first
        )
        ax.plot(*zip(*mine, strict=True), label=name, **style)
        points = [(100 * run["share"], run["p50_ns"] * 1e-6) for run in runs[name]]
        ax.plot(*zip(*points, strict=True), **_POINTS | {"color": style["color"]})
    seeds = f" of {len(document['seeds'])} seeds, lines of seed {first}" if len(document["seeds"]) > 1 else ""
    ax.axhline(10, color="0.4", linewidth=0.8, linestyle=":")
    for share in (1, 10, 100):
        ax.axvline(share, color="0.4", linewidth=0.8, linestyle=":")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="of one core's time, all threads of the design (%)",
        ylabel="median time from mark to found (ms)",
        title=f"{_about(document, 'open').partition(';')[0]}; open loop, points: runs{seeds}"
        + _without([name for name in _in_order(runs) if not runs[name]], "found none or not measured"),
    )
    ax.title.set_fontsize("small")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    legend_below(figure, ax)
    return figure


def _columns(document: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Figure:
    """Return bars for each column that asks for them, a panel for each."""
    figure, axes = new_figure(7.5, 2.2 * len(columns) + 0.6, len(columns))
    names = sorted(document["designs"], key=lambda name: style_of(name).order, reverse=True)
    for ax, column in zip(axes, columns, strict=True):
        cells = {name: document["cells"][name][column["key"]] for name in names}
        numbers = [float("nan") if cells[name]["why_not"] else cells[name]["number"] for name in names]
        bars = ax.barh(names, numbers, color=[style_of(name).line["color"] for name in names])
        ax.bar_label(bars, [cells[name]["text"] for name in names], padding=3, fontsize="small")
        loop = "" if column["loop"] == "none" else f", {column['loop']} loop"
        ax.set(xlabel=f"{column['title']} ({column['unit']}{loop})", xlim=(0, None))
        ax.margins(x=0.2)
    figure.suptitle(_about(document, "closed").partition(";")[0])
    return figure
