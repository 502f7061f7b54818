"""How many pages to migrate at once: what the review of batched migration asked to be measured.

Nobody has published the curve; ours is drawn from the costs that two published experiments give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.reproduce.batches import SIZES, Steps, routes
from gpuscan.reproduce.contract import Experiment, Outcome, Setting, Table
from gpuscan.reproduce.fitted import MACHINE, steps_of_a_page
from gpuscan.topology.presets import preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpuscan.topology.model import Topology

_TOUCHES_PER_S = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""How often a page that is moved is touched: from once in 10 s, which nobody calls hot, to every 0.1 ms."""
_ENOUGH = 0.95
_SHOWN_MAX = 8
"""Routes of a machine that are shown: one of each kind of distance."""
_MARKED = ("1", "8", "64", "512")
"""Batches that are written beside the highest curve."""
_CURVE, _BEST = "batch by batch", "the best batch"
_DEFAULT = "two-socket-cxl"


def _machine(setting: Setting) -> Topology:
    return setting.topology or preset(_DEFAULT)


def _name(topology: Topology, source: int, target: int) -> str:
    kinds = [topology.node(nid).kind.value for nid in (source, target)]
    return f"{kinds[0]} {source} -> {kinds[1]} {target}"


def _curve(name: str, steps: Steps) -> Table:
    rows = tuple(
        (
            str(n_pages),
            steps.gb_per_s(n_pages),
            steps.gb_per_s(n_pages) / steps.gb_per_s(SIZES[-1]),
            steps.first_ns(n_pages) / 1e3,
            steps.batch_ns(n_pages) / 1e3,
        )
        for n_pages in SIZES
    )
    columns = ("pages", "GB/s", "of that at 512", "first folio away, us", "batch, us")
    return Table(f"{name}: {_CURVE}", columns, rows)


def _run(setting: Setting) -> Outcome:
    topology, reference = _machine(setting), steps_of_a_page()
    found = routes(topology)[:_SHOWN_MAX]
    if not found:
        raise InputError(
            f"topology {topology.name} has memory on one node, so nothing moves; give a --topology with more"
        )
    tables: list[Table] = []
    best: list[tuple[str | float, ...]] = []
    for source, target in found:
        name = _name(topology, source, target)
        setting.on_step(name, 0.5)
        steps = reference.on(topology, source, target)
        tables.append(_curve(name, steps))
        best.append((name, *map(steps.best, _TOUCHES_PER_S), steps.enough(_ENOUGH)))
    headings = ("from -> to", *(f"{touches:g}/s" for touches in _TOUCHES_PER_S), f"{_ENOUGH:.0%} of GB/s")
    title = (
        f"{_BEST} on {topology.name}, in pages: migrator's time and others' waiting together are least, "
        "by how often a moved page is touched; and the smallest with most of the throughput"
    )
    return Outcome({}, (Table(title, headings, tuple(best)), *tables))


def _draw(outcome: Outcome) -> Figure:
    """Draw the curves: throughput against the time that the first folio is away, a point for each batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    ax = figure.subplots()
    ax.grid(True, which="major", linewidth=0.4, alpha=0.6)
    curves = [table for table in outcome.tables if table.title.endswith(_CURVE)]
    alike: dict[tuple[object, ...], list[str]] = {}
    for table in curves:  # links that are alike give one line
        alike.setdefault(table.rows, []).append(table.title.removesuffix(f": {_CURVE}"))
    for rows, names in alike.items():
        away, rate = ([float(row[column]) for row in rows] for column in (3, 1))  # type: ignore[index]
        ax.plot(away, rate, marker="o", markersize=3.5, linewidth=1.6, label=", ".join(names))
    highest = max(curves, key=lambda table: float(table.rows[-1][1]))
    for n_pages, rate_there, _, away_there, _ in highest.rows:
        if n_pages in _MARKED:
            place = (float(away_there), float(rate_there))
            ax.annotate(str(n_pages), place, textcoords="offset points", xytext=(-4, 7), fontsize=8)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("first folio of a batch is away, us (right: longer)")
    ax.set_ylabel("throughput, GB/s (up: better)")
    ax.set_title("What a batch of 1 to 512 pages gains, and what its first page waits")
    ax.legend(fontsize=8, loc="lower right")
    return figure


EXPERIMENT = Experiment(
    about="batch size against throughput and the wait for the first folio, and the best batch",
    source=(
        "asked by Huang Ying, linux-kernel, 2026-04-30, in the thread of [PATCH 0/7] Accelerate page "
        "migration with batch copying and hardware offload: batch number, total time, time of the first "
        "folio, and so the optimum"
    ),
    machine=f"a model; {_DEFAULT}, or --topology",
    published=(),
    orders=(),
    not_modelled=(
        "lazy TLB and CPUs on which the process does not run: a flush interrupts all of the machine",
        "the memory's bandwidth, which others use as well",
        "a thread that waits and would have done something else",
    ),
    fitted=(
        "cost of a folio, a page entry and a copy: folio-sizes (S. Garg, 2026-05-08 and 2025-09-23)",
        f"cost of a flush on 64 CPUs, as the preset {MACHINE} has: tlb-batching (Huang Ying, 2023-02-13); "
        "that it grows with the CPUs is assumed",
        "half of what is not copy and not flush comes before the copy: assumed",
        "a copy takes as long as its source's latency says, from that of the preset's other socket: assumed",
    ),
    scale="none: nothing is measured",
    takes_topology=True,
    draw=_draw,
    run=_run,
)
