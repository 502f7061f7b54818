"""What a scan takes on machines of any size: modelled from steps that are measured here, in the same run.

Each way to find READY pages is measured at several sizes, up to what the memory of this machine holds, with
caches that are cold at every size; the model is a fixed part and so much for each page, section and
candidate (:mod:`gpuscan.compare.cost_fit`). CPU time of one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuscan.base.errors import RunFailedError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.compare.cost_fit import Estimate, StepModel, modelled, summed
from gpuscan.compare.cost_rounds import measure
from gpuscan.compare.open_loop import OpenResult, StepCosts
from gpuscan.compare.steps.look_up import name_of, scan_steps_of
from gpuscan.compare.steps.scans import MODEL_DENSITY, SCAN_STEPS
from gpuscan.compare.steps.wake_up import wake_up_ns
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import Design, NotMeasured
from gpuscan.designs.steps import ScanSize, ScanStep

MODEL_SIZES = tuple(1 << shift for shift in range(30, 47))
"""Bytes: 1 GiB to 64 TiB."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """What was measured on one machine.

    Attributes:
        steps: models, by the names of the steps.
        wake_ns: CPU time of a thread that sleeps and is woken by a timer.
    """

    steps: dict[str, StepModel]
    wake_ns: float

    def step_costs(self, name: str) -> StepCosts:
        """Return what the open loop charges the thread of a design for; NaN for what it does not look at.

        Raises:
            RunFailedError: there was too little memory to measure that.
        """
        design, nan = DESIGNS.get(name), float("nan")
        assert design.look is not None
        look_ns = self.steps[name_of(design.look)].look_ns
        if math.isnan(look_ns):
            raise RunFailedError(
                f"there is too little memory to measure what {name} looks at ({name_of(design.look)}); "
                "end other programs, or run this on a larger machine"
            )
        return StepCosts(look_ns, nan) if design.looks_at == "pages" else StepCosts(nan, look_ns)

    def spent_ns(self, name: str, n_pages: int, result: OpenResult) -> float:
        """Return what the threads of a design took in an open loop on a machine of ``n_pages``, waking up
        included: what they looked at, sections that they asked, and pages that they found.

        Scans that were timed in the loop are charged as the model says where there is one: caches were warm
        there, and the clock ran on while others were.
        """
        design, n_scans = DESIGNS.get(name), max(1, result.n_scans)
        scan_ns, n_found = result.scan_ns, len(result.delays_ns)
        if design.runs_on_a_store:
            each = n_found / n_scans
            size = ScanSize(n_pages, each, each, result.n_marked_sections / n_scans)
            scan_ns = n_scans * self._rough_ns(design, size) or scan_ns
        else:
            assert design.look is not None
            scan_ns += n_found * self.steps[name_of(design.look)].found_ns
            scan_ns += result.n_sections_asked * self._section_ns(design)
        period_ns = result.interval_ns + result.scan_ns / n_scans
        n_wakes = max(result.n_scans, result.n_threads * result.end_ns / period_ns)
        return scan_ns + n_wakes * self.wake_ns

    def _rough_ns(self, design: Design, size: ScanSize) -> float:
        """Return the modelled time of a scan however wide its band is; 0 where there is no model."""
        assert not isinstance(design.scan, NotMeasured)
        parts = [(charge.step, charge.of(size)) for charge in design.scan]
        models = [(self.steps[name_of(step)], part) for step, part in parts if part is not None]
        return sum(model.fit.ns(part) for model, part in models if model.fit is not None)

    def _section_ns(self, design: Design) -> float:
        """Return what asking a section takes, 0 for a design that asks none."""
        assert not isinstance(design.scan, NotMeasured)
        models = [self.steps[name_of(charge.step)] for charge in design.scan]
        return sum(model.look_ns for model in models if model.terms[0] == "section")

    def scan(self, name: str, size: ScanSize) -> Estimate:
        """Return the modelled time of one scan; no number for a design whose steps were not measured, or one
        of whose steps has none.

        Args:
            name: of the design.
            size: what the scan is of.
        """
        charges = DESIGNS.get(name).scan
        if isinstance(charges, NotMeasured):
            return Estimate(float("nan"), float("nan"), f"not measured: {charges.why}")
        parts = [(charge.step, charge.of(size)) for charge in charges]
        return summed([self.steps[name_of(step)].at(part) for step, part in parts if part is not None])

    def scan_of(self, name: str, n_pages: int, density: float = MODEL_DENSITY) -> Estimate:
        """Return the modelled time of one scan of ``n_pages``, a share ``density`` READY, spread evenly."""
        return self.scan(name, ScanSize.spread(n_pages, density))

    def measured_scans(self, name: str) -> list[tuple[int, float]]:
        """Return (bytes of memory, ns) of what was measured of a design as a whole: the points of
        :data:`MODEL_DENSITY`, where a scan is one step that goes through all of it."""
        charges = DESIGNS.get(name).scan
        if isinstance(charges, NotMeasured):
            return []
        found = []
        for charge in charges:
            for point in self.steps[name_of(charge.step)].points:
                size = point.size
                done = [other for other in charges if other.of(size) is not None]
                is_whole = done == [charge] and charge.of(size) == size
                if is_whole and abs(size.n_candidates - size.n_pages * MODEL_DENSITY) <= 1:
                    found.append((int(size.n_pages) * PAGE_BYTES, point.ns))
        return sorted(found)


def step_document(model: StepModel) -> dict[str, Any]:
    """Return a step's model for JSON."""
    fit, look = model.fit, model.terms[0]
    unit = {"candidate": "entries"}.get(look, f"{look}s")
    return {
        "what": model.name,
        "unit": unit,
        "fixed_ns": None if fit is None else fit.fixed_ns,
        "each_ns": _number(model.look_ns),
        "terms_ns": None if fit is None else dict(zip(model.terms, fit.each_ns, strict=True)),
        "sizes": sorted({int(point.size.n_pages) for point in model.points}),
        "measured_ns": [point.ns for point in model.points],
        "points": [asdict(point) for point in model.points],
        "error": _number(model.error),
        "off": {str(n_pages): off for n_pages, off in model.off.items()},
        "why_not": model.why_not,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


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
    """Measure every step and model it; ``on_step`` is called after each of :func:`measured_steps`."""
    models = {}
    for step in measured_steps(names):
        models[step.name] = modelled(step.name, step.terms, measure(step))
        on_step(step.name)
    return CostModel(models, wake_up_ns())
