"""Which step a design means: one of a table by its name, or its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from gpuscan.base.errors import InputError
from gpuscan.compare.steps.marks import MARK_STEPS
from gpuscan.compare.steps.neighbours import CO_RUNNERS
from gpuscan.compare.steps.scans import SCAN_STEPS
from gpuscan.designs.contract import Design, NotMeasured
from gpuscan.designs.steps import CoRunner, MarkStep, ScanStep

_Step = TypeVar("_Step", ScanStep, MarkStep, CoRunner)


def scan_steps_of(design: Design) -> tuple[ScanStep, ...]:
    """Return the steps that a design's looks and scans are charged as.

    Raises:
        InputError: it names one that is none.
    """
    named = [] if design.look is None else [design.look]
    if not isinstance(design.scan, NotMeasured):
        named += [charge.step for charge in design.scan]
    return tuple(_found(design, step, SCAN_STEPS) for step in named)


def mark_step_of(design: Design) -> MarkStep | None:
    """Return the step that a design's mark is, None where none was measured.

    Raises:
        InputError: it names one that is none.
    """
    return None if isinstance(design.mark, NotMeasured) else _found(design, design.mark, MARK_STEPS)


def co_runner_of(design: Design) -> CoRunner | None:
    """Return what a neighbour of a design is measured beside, None where nothing was.

    Raises:
        InputError: it names one that is none.
    """
    return None if isinstance(design.beside, NotMeasured) else _found(design, design.beside, CO_RUNNERS)


def check_steps(design: Design) -> None:
    """Refuse a design whose steps are not there.

    Raises:
        InputError: it names one that is none.
    """
    scan_steps_of(design), mark_step_of(design), co_runner_of(design)


def name_of(step: str | ScanStep | MarkStep | CoRunner) -> str:
    """Return what a step is called."""
    return step if isinstance(step, str) else step.name


def _found(design: Design, step: str | _Step, table: Mapping[str, _Step]) -> _Step:
    if not isinstance(step, str):
        if step.name in table:
            raise InputError(
                f"the design {design.name} brings a step {step.name!r}, and there is one of that name; "
                "call it something else"
            )
        return step
    if step not in table:
        raise InputError(
            f"the design {design.name} declares the step {step!r}, which is none; choose {', '.join(table)}, "
            "or bring one"
        )
    return table[step]
