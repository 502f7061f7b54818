"""Cells of a comparison's table: a column of a design, over all seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from gpuscan.base.units import format_bytes, format_count, format_time
from gpuscan.compare.columns.contract import Column, Figures, How, Unit


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell over all seeds: the median, and the smallest and largest; or why there is none. ``values`` has
    every seed's number in their order, NaN where there is none."""

    how: How
    number: float
    low: float
    high: float
    why_not: str = ""
    remark: str = ""
    values: tuple[float, ...] = field(default=())


def cell_of(column: Column, seeds: Sequence[Figures]) -> Cell:
    """Return the cell of a design from its figures under each seed."""
    values = [column.value(figures) for figures in seeds]
    how = column.how_of(seeds[0].design)
    of_seeds = tuple(value.number for value in values)
    numbers = [number for number in of_seeds if not math.isnan(number)]
    if not numbers:
        nan = float("nan")
        why = next((value.why_not for value in values if value.why_not), "nothing happened")
        return Cell(how, nan, nan, nan, why, values=of_seeds)
    middle = median(numbers)
    known = (value for value in values if not math.isnan(value.number))
    remark = min(known, key=lambda value: abs(value.number - middle)).remark
    return Cell(how, middle, min(numbers), max(numbers), "", remark, of_seeds)


def cell_text(column: Column, cell: Cell) -> str:
    """Return a cell as printed: the median, with half the spread where several seeds have a number (of their
    own: costs are measured once for all), and how many have one where not all do."""
    if cell.why_not:
        return cell.why_not
    text = formatted(cell.number, column.unit)
    n_known, n_seeds = sum(not math.isnan(number) for number in cell.values), len(cell.values)
    measured_once = column.loop == "none" and cell.high == cell.low
    if n_known > 1 and not measured_once:
        text += f" ±{formatted((cell.high - cell.low) / 2, column.unit)}"
    if n_known < n_seeds:
        text += f" ({n_known} of {n_seeds} seeds)"
    return f"{text} {cell.remark}" if cell.remark else text


def formatted(number: float, unit: Unit) -> str:
    """Return a number with its unit, as short as it can be read."""
    if unit == "bytes":
        return format_bytes(number)
    if unit == "ns":
        return format_time(number)
    if unit == "share":
        return f"{number:.1%}"
    if number < 10 and not float(number).is_integer():
        return f"{number:.2f}"
    return format_count(round(number)) if number >= 10_000 else f"{number:,.0f}"
