"""Check what scans are priced at: the models of ``gpuscan compare`` against sizes that they were not made of.

    python benchmarks/cost_model.py [RUNS]

Each run measures the steps anew, in the same rounds at other sizes too, and asks two models for these: the
one that a comparison prints, and one of the smaller half of its sizes alone, which has to say what twice as
much memory takes. Where a model has a number that is off by more than 15 % the check fails; where it has none
that is said. What is checked has the density of the cells; that of half of the sizes is shown at the
others too, and not counted there. Neither is a size whose median is not known to 15 % (other work on the
machine), which is said. A run takes about two minutes.
"""

from __future__ import annotations

import os
import sys

from gpuscan.base.memory import available_bytes
from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
from gpuscan.compare.cost_fit import MOST_ERROR, Estimate, Measured, StepModel, modelled, summed
from gpuscan.compare.cost_model import CostModel
from gpuscan.compare.cost_rounds import MEMORY_SHARE, measured_at
from gpuscan.compare.steps.ready_pages import anywhere
from gpuscan.compare.steps.scans import SCAN_STEPS
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.steps import Layout, ScanStep
from gpuscan.records.page_map import SECTION_PAGES

_HELD_OUT = (0.3, 0.6, 0.9)
_SAME = 0.1
_TIB_PAGES = (1 << 40) // PAGE_BYTES


def held_out(layouts: tuple[Layout, ...]) -> list[Layout]:
    """Return layouts of sizes in between, of the density of the first."""
    top, density = layouts[-1].n_pages, len(layouts[0].ready) / layouts[0].n_pages
    pages = [int(top * part) // SECTION_PAGES * SECTION_PAGES for part in _HELD_OUT]
    return [anywhere(n_pages, density) for n_pages in pages]


def said(what: str, estimate: Estimate, point: Measured, *, counts: bool = True) -> bool:
    """Print one size, and return whether a number that would be in a cell is wrong."""
    size = format_bytes(point.size.n_pages * PAGE_BYTES)
    line = f"  {what:<24} {size:>9}  measured {format_time(point.ns):>8} (spread {point.spread:4.1%})"
    if estimate.why_not:
        print(f"{line}  {estimate.why_not}")
        return False
    off = estimate.ns / point.ns - 1
    wrong = abs(off) > MOST_ERROR and counts and point.spread <= MOST_ERROR
    mark = "" if counts else "  other density"
    if point.spread > MOST_ERROR:
        mark = "  not known"
    mark = "  WRONG" if wrong else mark
    print(f"{line}  model {format_time(estimate.ns):>8} {off:+6.1%} of ±{estimate.error:.1%}{mark}")
    return wrong


def _density(point: Measured) -> float:
    return point.size.n_candidates / point.size.n_pages


def checked(step: ScanStep) -> tuple[StepModel, int]:
    """Measure a step, and return its model and how many of its numbers are wrong."""
    layouts = step.points(available_bytes() // MEMORY_SHARE)
    if not layouts:
        return modelled(step.name, step.terms, ()), 0
    others = held_out(layouts)
    points = measured_at(step, [*layouts, *others])
    inside, outside = points[: len(layouts)], points[len(layouts) :]
    model, n_wrong = modelled(step.name, step.terms, inside), 0
    for point in outside:
        n_wrong += said(step.name, summed([model.at(point.size)]), point)
    top, density = inside[-1].size.n_pages, _density(inside[0])
    smaller = modelled(step.name, step.terms, [at for at in inside if at.size.n_pages <= top / 2])
    for point in inside:
        if point.size.n_pages == top:
            counts = abs(_density(point) / density - 1) < _SAME if density else True
            estimate = summed([smaller.at(point.size)])
            n_wrong += said(f"{step.name} (of half)", estimate, point, counts=counts)
    return model, n_wrong


def main(arguments: list[str]) -> int:
    """Run, print, and return 1 where a number was wrong."""
    n_runs, n_wrong = int(arguments[0]) if arguments else 5, 0
    for run in range(1, n_runs + 1):
        print(f"run {run} of {n_runs}, load {os.getloadavg()[0]:.1f}", flush=True)
        models = {}
        for step in SCAN_STEPS.values():
            models[step.name], wrong = checked(step)
            n_wrong += wrong
        costs = CostModel(models, float("nan"))
        for name in DESIGNS.in_order:
            cells = [costs.scan_of(name.name, n * _TIB_PAGES) for n in (1, 64)]
            texts = [cell.why_not or f"{format_time(cell.ns)} ±{cell.error:.0%}" for cell in cells]
            print(f"  cells of {name.name:<15} 1 TiB {texts[0]:<24} 64 TiB {texts[1]}", flush=True)
    print(f"{n_wrong} numbers were off by more than {MOST_ERROR:.0%}")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
