"""What a design costs beside its scans, and what one of them would on large machines."""

from __future__ import annotations

import math
from dataclasses import replace

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value, declared, estimated
from gpuscan.compare.steps.look_up import mark_step_of


def _beside(number: float, step: object, figures: Figures) -> Value:
    """Return what takes two threads to measure, one CPU or not wanted at all."""
    return declared(number, step, "not measured" if math.isnan(figures.mark_ns) else "one CPU")


def _mark(figures: Figures) -> Value:
    value, step = declared(figures.mark_ns, figures.declared.mark), mark_step_of(figures.declared)
    if value.why_not or step is None or not step.batched:
        return value
    return replace(value, remark=f"({step.batched})")


COLUMNS = Columns(
    60,
    (
        Column(
            key="metadata",
            title="metadata",
            explain="Memory that the design keeps beside struct page for a machine of this size.",
            loop="none",
            how="modelled",
            unit="bytes",
            better="neither",
            value=lambda f: Value(float(f.metadata_bytes)),
            how_on_a_store="counted",
        ),
        Column(
            key="mark_cost",
            title="producer cost per mark, 1 thread",
            explain="CPU time that whoever sees an access spends on marking its page, alone on the machine.",
            loop="none",
            how="measured",
            unit="ns",
            better="neither",
            value=_mark,
        ),
        Column(
            key="mark_cost_single",
            title="  of a single mark",
            explain="The same where each mark is made by itself, when its page is seen.",
            loop="none",
            how="measured",
            unit="ns",
            better="neither",
            value=lambda f: declared(f.mark_single_ns, f.declared.mark),
        ),
        Column(
            key="mark_cost_2",
            title="producer cost per mark, 2 threads",
            explain="The same while a second CPU marks other pages at the same time.",
            loop="none",
            how="measured",
            unit="ns",
            better="neither",
            value=lambda f: _beside(f.mark_beside_ns, f.declared.mark, f),
        ),
        Column(
            key="slowdown",
            title="neighbour slowed while it scans",
            explain="How much longer a neighbour takes to read its memory while the design scans on another "
            "CPU without a pause.",
            loop="none",
            how="measured",
            unit="share",
            better="neither",
            value=lambda f: _beside(f.slowdown, f.declared.beside, f),
        ),
        Column(
            key="scan_1tib",
            title="one scan of 1 TiB",
            explain="How long one scan of 1 TiB takes when one page in 100,000 is asked for, from steps "
            "measured on this machine, and how far that is off at sizes left out of the model.",
            loop="none",
            how="modelled",
            unit="ns",
            better="neither",
            value=lambda f: estimated(f.scan_1tib),
        ),
        Column(
            key="scan_64tib",
            title="one scan of 64 TiB",
            explain="How long one scan of 64 TiB takes when one page in 100,000 is asked for, from steps "
            "measured on this machine, and how far that is off at sizes left out of the model.",
            loop="none",
            how="modelled",
            unit="ns",
            better="neither",
            value=lambda f: estimated(f.scan_64tib),
        ),
    ),
)
