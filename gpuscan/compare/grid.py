"""Grids of parameters: every combination through the designs, a table of all cells, and the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_time, parse_time_ns
from gpuscan.compare.columns.catalogue import all_columns
from gpuscan.compare.columns.cells import Cell, cell_of, cell_text
from gpuscan.compare.cost_model import CostModel
from gpuscan.compare.pace import Part
from gpuscan.compare.parts import LISTING, RECORDING, parts_of
from gpuscan.compare.settings import Parameters, Settings
from gpuscan.compare.suite import Costs, Inputs, OnShare, figures_of, run_seed
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.files.parquet import create_table
from gpuscan.files.writing import Contents, create_json, new_directory

GRID_FILE = "grid.json"
CONTENTS = Contents(GRID_FILE, ("grid.parquet",))
"""Of the directory of a grid."""
KEYS = ("interval", "batch", "threshold")


@dataclass(frozen=True, slots=True)
class GridCell:
    """A design under one combination: what of it applying, and every column."""

    design: str
    parameters: Parameters
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class GridResult:
    """All cells, in the order of the grid, and the costs they were modelled with."""

    cells: tuple[GridCell, ...]
    model: CostModel


def parse_grid(texts: Sequence[str]) -> list[Parameters]:
    """Return every combination of ``interval=50ms,1s``, ``batch=64,512`` and ``threshold=1,2``.

    Raises:
        InputError: a key is unknown or given twice, or a value is wrong.
    """
    values: dict[str, list[int]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not equals or key not in KEYS:
            raise InputError(
                f"--grid {text}: give one of {', '.join(KEYS)}, for example interval=50ms,100ms,1s"
            )
        if key in values:
            raise InputError(f"--grid {text}: {key} is given twice; put all its values into one list")
        values[key] = [_value(text, key, item.strip()) for item in listed.split(",") if item.strip()]
        if not values[key]:
            raise InputError(f"--grid {text}: no value; give for example {key}=1,2")
    names = {"interval": "interval_ns", "batch": "batch_folios", "threshold": "threshold"}
    return [
        Parameters(**{names[key]: value for key, value in zip(values, combination, strict=True)})
        for combination in product(*values.values())
    ]


def _value(text: str, key: str, item: str) -> int:
    value = parse_time_ns(item) if key == "interval" else int(item) if item.isdecimal() else 0
    if value < 1:
        raise InputError(f"--grid {text}: {item!r} is not a whole number of at least 1; correct it")
    return value


def check_objective(name: str) -> None:
    """Refuse an objective that no column is.

    Raises:
        InputError: it is unknown.
    """
    objectives = [column.key for column in all_columns() if column.better != "neither"]
    if name not in objectives:
        raise InputError(f"unknown objective {name!r}; choose one of {', '.join(objectives)}")


def check_intervals(combinations: Sequence[Parameters], settings: Settings) -> None:
    """Refuse an interval that does not divide the run: models go on in whole ticks, and would replay fewer
    accesses than gpuscan.

    Raises:
        InputError: one does not.
    """
    horizon_ns = settings.horizon_ns
    # A model whose thread sleeps longer than a tick goes on in the workload's ticks, which do divide it.
    for parameters in combinations:
        interval_ns = replace(settings, parameters=parameters).model_tick_ns
        if horizon_ns % interval_ns:
            raise InputError(
                f"--grid interval={format_time(interval_ns)} does not divide the run's "
                f"{format_time(horizon_ns)}; choose an interval that does, or other --ticks"
            )


def check_bounds(designs: Sequence[str], combinations: Sequence[Parameters], settings: Settings) -> None:
    """Refuse a combination that a design does not take, before any is run.

    Raises:
        InputError: see :meth:`gpuscan.compare.settings.Settings.check`.
    """
    for parameters, name in product(combinations, designs):
        replace(settings, parameters=parameters.applying_to(name, settings.mark)).check(name)


@dataclass(frozen=True, slots=True)
class GridRun:
    """A combination, and the designs that are run under it; ``of`` is in front of what is told of it."""

    parameters: Parameters
    designs: tuple[str, ...]
    of: str


def grid_runs(
    designs: Sequence[str], settings: Settings, combinations: Sequence[Parameters]
) -> list[GridRun]:
    """Return what of a grid is run: of combinations that differ only in what a design does not have, one."""
    runs: list[GridRun] = []
    done: set[tuple[str, Parameters]] = set()
    for parameters in combinations:
        applying = {name: parameters.applying_to(name, settings.mark) for name in designs}
        missing = tuple(name for name in designs if (name, applying[name]) not in done)
        done.update(applying.items())
        if missing:
            runs.append(GridRun(parameters, missing, f"cell {len(runs) + 1}: "))
    return runs


def grid_parts(runs: Sequence[GridRun], settings: Settings, n_requests: int | None) -> list[Part]:
    """Return the parts of which :func:`run_grid` tells, but for steps that are measured."""
    parts = parts_of((), settings, n_requests)
    for run in runs:
        parts += [
            part
            for part in parts_of(run.designs, settings, n_requests, run.of)
            if part.kind not in (RECORDING, LISTING)
        ]
    return parts


def run_grid(
    runs: Sequence[GridRun],
    settings: Settings,
    inputs: Inputs,
    model: CostModel,
    n_processes: int,
    on_share: OnShare,
) -> GridResult:
    """Run every cell of a grid.

    Args:
        runs: of :func:`grid_runs`.
        settings, inputs, n_processes, on_share: see :func:`gpuscan.compare.suite.run_seed`.
        model: what the open loop's walks take.

    Raises:
        InputError, RunFailedError: see ``run_seed``.
    """
    found: list[GridCell] = []
    for one in runs:
        tried = replace(settings, parameters=one.parameters)
        run = run_seed(one.designs, tried, inputs, model, n_processes, on_share, one.of)
        for name in one.designs:
            figures = [figures_of(name, run, tried, Costs(model))]
            cells = {column.key: cell_of(column, figures) for column in all_columns()}
            applying = one.parameters.applying_to(name, settings.mark)
            found.append(GridCell(name, applying, cells))
    return GridResult(tuple(found), model)


def grid_document(result: GridResult, objective: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a grid; ``best`` is a cell, None where no cell has the objective."""
    rows = [_row(cell) for cell in result.cells]
    better = {column.key: column.better for column in all_columns()}
    sign = -1 if better[objective] == "smaller" else 1
    able = [row for row in rows if row["values"][objective] is not None]
    best = max(able, key=lambda row: sign * row["values"][objective], default=None)
    names = sorted({cell.design for cell in result.cells})
    models = [name for name in names if not DESIGNS.get(name).runs_on_a_store]
    return {
        "kind": "compare-grid",
        **facts,
        "step_costs": {name: asdict(result.model.step_costs(name)) for name in models},
        "objective": objective,
        "best": best,
        "cells": rows,
    }


def _row(cell: GridCell) -> dict[str, Any]:
    values = {
        column.key: None if cell.cells[column.key].why_not else cell.cells[column.key].number
        for column in all_columns()
    }
    return {
        "design": cell.design,
        "interval_ns": cell.parameters.interval_ns,
        "batch": cell.parameters.batch_folios,
        "threshold": cell.parameters.threshold,
        "values": values,
        "text": {column.key: cell_text(column, cell.cells[column.key]) for column in all_columns()},
    }


def write_grid(out: Path, document: dict[str, Any], *, force: bool) -> None:
    """Write ``grid.json`` and ``grid.parquet``: a row per cell, a column per parameter and figure.

    Raises:
        InputError, RunFailedError: see :func:`gpuscan.compare.report.write_out`.
    """
    rows = [
        {**{key: row[key] for key in ("design", "interval_ns", "batch", "threshold")}, **row["values"]}
        for row in document["cells"]
    ]
    with new_directory(out, CONTENTS, force=force) as directory:
        create_json(directory / GRID_FILE, document)
        create_table(directory / "grid.parquet", pa.Table.from_pylist(rows))
