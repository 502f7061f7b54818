"""The plots of docs/answers.md, from what the experiments found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gpuscan.base.units import format_bytes
from gpuscan.bench.plots import save
from gpuscan.compare.plots import legend_below, new_figure, style_of
from gpuscan.files.writing import new_file

_BINS = 24
_DPI = 110


def _ms(times_ns: Sequence[float | None]) -> list[float]:
    """Return milliseconds, NaN where a model has no number."""
    return [float("nan") if ns is None else ns * 1e-6 for ns in times_ns]


def scan(found: Mapping[str, Any]) -> Figure:
    """Draw the time of one scan by memory."""
    figure, (ax,) = new_figure()
    for name, times_ns in found["scan_ns"].items():
        ax.plot(found["memory_bytes"], _ms(times_ns), label=name, **style_of(name).line)
    ax.axhline(1000, color="0.4", linestyle="--", linewidth=1, label="kmigrated's sleep, 1 s")
    ticks = found["memory_bytes"][::2]
    ax.set_xscale("log", base=2)
    ax.set(
        yscale="log",
        xlabel="memory that is scanned",
        ylabel="time of one round, one thread (ms)",
        title=f"one page in {1 / found['density']:,.0f} is READY, spread evenly",
    )
    ax.set_xticks(ticks, [format_bytes(tick) for tick in ticks], rotation=30)
    legend_below(figure, ax, 3)
    return figure


def place(found: Mapping[str, Any]) -> Figure:
    """Draw delay by place, marks spread and at one moment side by side."""
    figure, axes = new_figure(10.5, 4.6, 1, 2)
    for ax, (what, designs) in zip(axes, found.items(), strict=True):
        for name, result in designs.items():
            where = np.array(result["place"])
            delay_ms = np.array(result["delay_ns"]) * 1e-6
            which = np.minimum((where * _BINS).astype(int), _BINS - 1)
            middles = [(index + 0.5) * 100 / _BINS for index in range(_BINS)]
            medians = [float(np.median(delay_ms[which == index])) for index in range(_BINS)]
            ax.plot(middles, medians, label=name, **style_of(name).line)
        ax.set(
            xlim=(0, 100),
            ylim=(0, None),
            xlabel="where the page lies in its zone (% of its span)",
            title=f"marks {what}",
        )
    axes[0].set_ylabel("median time from mark to found (ms)")
    legend_below(figure, axes[0])
    return figure


def fill(found: Mapping[str, Any]) -> Figure:
    """Draw folios per batch by number of targets, with the theory."""
    figure, (ax,) = new_figure()
    _by_targets(ax, found["rows"], "folios_per_batch")
    theory = [(row["targets"], row["theory"]) for row in found["rows"] if row["theory"]]
    ax.plot(*zip(*sorted(set(theory)), strict=True), "kx", markersize=8, label="theory: k / (k - 1)")
    ax.set(
        yscale="log",
        xlabel="targets k, drawn at random for each page",
        ylabel="folios in a batch, mean (512 is full)",
    )
    legend_below(figure, ax, 3)
    return figure


def wrong(found: Mapping[str, Any]) -> Figure:
    """Draw the share sent to the wrong node by number of targets."""
    figure, (ax,) = new_figure()
    _by_targets(ax, found["rows"], "wrong", 100.0)
    ax.set(
        ylim=(-2, 100),
        xlabel="targets k, drawn at random for each page",
        ylabel="pages sent to another node than asked for (%)",
    )
    legend_below(figure, ax, 3)
    return figure


def _by_targets(ax: Any, rows: list[dict[str, Any]], key: str, scale: float = 1.0) -> None:
    names = {row["design"] for row in rows}
    for name in sorted(names, key=lambda name: style_of(name).order):
        mine = sorted((row["targets"], row[key] * scale) for row in rows if row["design"] == name)
        if mine:
            ax.plot(*zip(*mine, strict=True), label=name, marker="o", markersize=4, **style_of(name).line)


def density(found: Mapping[str, Any]) -> Figure:
    """Draw the time of a round over 1 TiB by density."""
    figure, (ax,) = new_figure()
    for name in ("rfc-fixed", "section-flag", "percpu-list", "gpuscan"):
        ax.plot(
            found["density"], _ms(found[name]), label=name, marker="o", markersize=4, **style_of(name).line
        )
    ax.axvline(
        found["list_holds_density"],
        color="#009E73",
        linestyle="--",
        linewidth=1,
        label="percpu-list is full (64 CPUs, 4 nodes)",
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="READY pages, share of all pages",
        ylabel="one round over 1 TiB, one thread (ms)",
    )
    legend_below(figure, ax, 3)
    return figure


def folio(found: Mapping[str, Any]) -> Figure:
    """Draw PFNs looked at and metadata by the share of huge pages."""
    figure, (looked, kept) = new_figure(10.5, 4.4, 1, 2)
    rows = found["rows"]
    share = [100 * row["huge_share"] for row in rows]
    gib = [row["every_page"] * 4096 / 2**30 for row in rows]
    per_gib = {
        key: [row[key] / size for row, size in zip(rows, gib, strict=True)]
        for key in ("every_page", "by_folio", "page_records", "folio_records")
    }
    looked.plot(share, per_gib["every_page"], label="every page (rfc-v1)", **style_of("rfc-v1").line)
    looked.plot(share, per_gib["by_folio"], label="in steps of a folio", color="#0072B2", linewidth=2)
    looked.set(yscale="log", ylabel="PFNs a walk looks at, per GiB")
    kept.plot(
        share,
        [value / 1024 for value in per_gib["page_records"]],
        label="a record per page (8 bytes of page_ext)",
        **style_of("rfc-v1").line,
    )
    kept.plot(
        share,
        [value / 1024 for value in per_gib["folio_records"]],
        label="a record per folio (4 bytes)",
        color="#0072B2",
        linewidth=2,
    )
    kept.set(yscale="log", ylabel="metadata, KiB per GiB")
    for ax in (looked, kept):
        ax.set_xlabel("memory in folios of 2 MiB (%), the rest in single pages")
        ax.legend(fontsize="small", loc="lower left")
    return figure


def compact(found: Mapping[str, Any]) -> Figure:
    """Draw false promotions by gap, and wrong targets."""
    figure, (wrapped, sent) = new_figure(10.5, 4.8, 1, 2)
    gaps = [row["gap_ms"] / 1000 for row in found["rows"]]
    looks = {
        "pghot-compact": {"color": "#D55E00", "linewidth": 2, "label": "8 bits (pghot-compact)"},
        "pghot": {"color": "#0072B2", "linewidth": 2, "linestyle": "--", "label": "32 bits (pghot)"},
    }
    for name, look in looks.items():
        wrapped.plot(gaps, [100 * row[name] for row in found["rows"]], **look)
        targets = [row["targets"] for row in found["targets"]]
        sent.plot(targets, [100 * row[name] for row in found["targets"]], marker="o", **look)
    wrapped.axvspan(0, 3, color="#D55E00", alpha=0.1, label="meant to be hot with 8 bits (up to 3 s)")
    wrapped.axvspan(3, 5, color="#0072B2", alpha=0.1, label="with 32 bits (up to 5 s)")
    wrapped.set(
        xlim=(0, max(gaps)),
        ylim=(-2, 102),
        xlabel="time between a page's only two accesses (s)",
        ylabel="pages promoted as hot (%)",
    )
    sent.set(
        ylim=(-2, 102),
        xlabel="targets k, drawn at random for each page",
        ylabel="pages sent to another node than asked for (%)",
    )
    legend_below(figure, wrapped, 2)
    return figure


PICTURES: dict[str, dict[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "scan": {"scan": scan},
    "place": {"place": place},
    "fill": {"batch-fill": fill, "wrong-node": wrong},
    "density": {"density": density},
    "folio": {"folio": folio},
    "compact": {"compact": compact},
}
"""Plots of each experiment, by file name."""


def draw(name: str, found: Mapping[str, Any], directory: Path) -> None:
    """Draw the plots of an experiment."""
    for file_name, picture in PICTURES[name].items():
        save(picture(found), directory, file_name, _DPI, new_file)
