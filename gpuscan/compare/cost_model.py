"""What a scan takes on machines of any size: modelled from steps that are measured here, in the same run.

Each way to find READY pages is timed at two sizes; a straight line through them is the model, and a
size in between, measured as well, says how far off it is. CPU time of one thread, caches cold but for
what the run before left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuscan.compare.open_loop import StepCosts
from gpuscan.compare.steps.look_up import name_of, scan_steps_of
from gpuscan.compare.steps.scans import MODEL_DENSITY, SCAN_STEPS
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import NotMeasured, ScanSize
from gpuscan.designs.steps import ScanStep

MODEL_SIZES = tuple(1 << shift for shift in range(30, 47))
"""Bytes: 1 GiB to 64 TiB."""


@dataclass(frozen=True, slots=True)
class Line:
    """A measured straight line.

    Attributes:
        what: a step, see :mod:`gpuscan.compare.steps.scans`.
        unit: what is counted: pages, sections, entries.
        fixed_ns, each_ns: intercept (0 at least) and slope.
        sizes, measured_ns: the two that made it, then the one that checks it; the least of 9 runs each.
        error: (model - measured) / measured at the checked size.
    """

    what: str
    unit: str
    fixed_ns: float
    each_ns: float
    sizes: tuple[int, ...]
    measured_ns: tuple[float, ...]
    error: float

    def ns(self, n: float) -> float:
        """Return the modelled time of ``n`` units."""
        return self.fixed_ns + self.each_ns * n


@dataclass(frozen=True, slots=True)
class CostModel:
    """All lines of one machine, by what they are of."""

    lines: dict[str, Line]

    def step_costs(self, name: str) -> StepCosts:
        """Return what the open loop charges the thread of a design for; NaN for what it does not look at."""
        design, nan = DESIGNS.get(name), float("nan")
        assert design.look is not None
        look_ns = self.lines[name_of(design.look)].each_ns
        return StepCosts(look_ns, nan) if design.looks_at == "pages" else StepCosts(nan, look_ns)

    def scan_ns(self, name: str, n_pages: int, density: float = MODEL_DENSITY) -> float:
        """Return the modelled time of one scan of ``n_pages``, READY pages spread evenly; NaN for a design
        whose steps were not measured.

        Args:
            name: of the design.
            n_pages: of the machine.
            density: READY pages, share of all.
        """
        charges, size = DESIGNS.get(name).scan, ScanSize(n_pages, density)
        if isinstance(charges, NotMeasured):
            return float("nan")
        return sum(self.lines[name_of(charge.step)].ns(charge.count(size)) for charge in charges)


def measured_steps(names: Sequence[str] = ()) -> tuple[ScanStep, ...]:
    """Return the steps that are measured for designs: the table's, and those that these bring.

    Raises:
        InputError: one names a step that is none.
    """
    known = dict(SCAN_STEPS)
    for name in names:
        known.update({step.name: step for step in scan_steps_of(DESIGNS.get(name))})
    return tuple(known.values())


def measure_model(on_step: Callable[[str], None], names: Sequence[str] = ()) -> CostModel:
    """Measure a line of every step; ``on_step`` is called after each of :func:`measured_steps`."""
    lines = {}
    for step in measured_steps(names):
        lines[step.name] = _line(step)
        on_step(step.name)
    return CostModel(lines)


def _line(step: ScanStep) -> Line:
    sizes, measured = step.sizes, [step.least_ns(n) for n in step.sizes]
    each_ns = max(0.0, (measured[1] - measured[0]) / (sizes[1] - sizes[0]))
    fixed_ns = max(0.0, measured[0] - each_ns * sizes[0])
    error = (fixed_ns + each_ns * sizes[2]) / measured[2] - 1
    return Line(step.name, step.unit, fixed_ns, each_ns, sizes, tuple(measured), error)
