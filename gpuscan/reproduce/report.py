"""What experiments gave, as one document, as Markdown, and in a directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuscan.base import markdown
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import format_figure
from gpuscan.bench.plots import save
from gpuscan.files.writing import Contents, create, create_json, new_directory
from gpuscan.reproduce.catalogue import EXPERIMENTS
from gpuscan.reproduce.contract import BARS
from gpuscan.reproduce.judge import JudgedRow
from gpuscan.reproduce.run import Reproduced

JSON_FILE, MARKDOWN_FILE = "reproduce.json", "reproduce.md"
_DPI = 110


def contents() -> Contents:
    """Return what a directory of results holds: a plot has the name of its experiment."""
    plots = (f"{name}.{suffix}" for name in EXPERIMENTS.names for suffix in ("png", "svg"))
    return Contents(JSON_FILE, (MARKDOWN_FILE, *plots))


def document_of(done: Sequence[Reproduced], seed: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that is known as dicts, lists and numbers.

    Args:
        done: experiments.
        seed: they ran with.
        facts: version and machine.
    """
    return {
        "kind": "reproduce",
        **facts,
        "seed": seed,
        "bars": dict(BARS),
        "reached": sum(one.judged.n_reached for one in done),
        "judged": sum(one.judged.n_judged for one in done),
        "seconds": sum(one.seconds for one in done),
        "experiments": [_experiment(one) for one in done],
    }


def _experiment(one: Reproduced) -> dict[str, Any]:
    judged = one.judged
    experiment = judged.experiment
    return {
        "name": judged.name,
        "about": experiment.about,
        "source": experiment.source,
        "machine": experiment.machine,
        "scale": experiment.scale,
        "fitted": experiment.fitted,
        "not_modelled": experiment.not_modelled,
        "reached": judged.n_reached,
        "judged": judged.n_judged,
        "seconds": one.seconds,
        "rows": [
            {
                "key": row.figure.key,
                "what": row.figure.what,
                "unit": row.figure.unit,
                "kind": row.figure.kind,
                "published": row.figure.value,
                "ours": row.ours,
                "difference": row.difference,
                "verdict": row.verdict,
                "missing": row.why,
            }
            for row in judged.rows
        ],
        "orders": [
            {
                "what": order.order.what,
                "keys": order.order.keys,
                "as_published": order.as_published,
                "missing": order.why,
            }
            for order in judged.orders
        ],
        "tables": [
            {"title": table.title, "columns": table.columns, "rows": table.rows}
            for table in judged.outcome.tables
        ],
    }


def cells_of(row: JudgedRow) -> tuple[str, str, str, str, str]:
    """Return what a person reads of a row: what, published, ours, difference, verdict."""
    unit = f" {row.figure.unit}" if row.figure.unit else ""
    ours = "-" if row.ours is None else format_figure(row.ours) + unit
    difference = "" if row.difference is None else f"{round(row.difference, 4) + 0.0:+.1%}"
    return row.figure.what, format_figure(row.figure.value) + unit, ours, difference, row.verdict


def remarks_of(one: Reproduced) -> Iterator[str]:
    """Yield what stands below the table of an experiment: what is missing, fitted, and not modelled."""
    judged = one.judged
    for row in judged.rows:
        if row.verdict == "missed":
            yield f"missed: {row.figure.what}: {row.why}"
    for order in judged.orders:
        said = "as published" if order.as_published else f"not as published: {order.why}"
        yield f"order of {order.order.what}: {said}"
    yield from (f"fitted: {what}" for what in judged.experiment.fitted)
    yield from (f"not modelled: {what}" for what in judged.experiment.not_modelled)


def markdown_of(one: Reproduced) -> str:
    """Return an experiment as a section of Markdown."""
    judged = one.judged
    experiment = judged.experiment
    lines = [f"## {judged.name}", "", f"{experiment.about}.", ""]
    lines += [f"- source: {experiment.source}", f"- machine: {experiment.machine}"]
    lines += [f"- scale: {experiment.scale}"]
    lines += [f"- {one.seconds:.0f} s; {judged.n_reached} of {judged.n_judged} reached", ""]
    if judged.rows:
        head = ("", "published", "ours", "difference", "")
        lines += [*markdown.table(head, [cells_of(row) for row in judged.rows]), ""]
    for table in judged.outcome.tables:
        rows = [[format_figure(cell) for cell in row] for row in table.rows]
        lines += [f"{table.title}:", "", *markdown.table(table.columns, rows), ""]
    lines += [f"- {remark}" for remark in remarks_of(one)]
    return "\n".join([*lines, ""])


def write_out(
    out: Path, done: Sequence[Reproduced], document: Mapping[str, Any], *, plots: bool, force: bool
) -> None:
    """Fill the directory ``out``.

    Args:
        out: where; its parent must be there.
        done: experiments.
        document: of them.
        plots: draw those of experiments that have some.
        force: replace an earlier one.

    Raises:
        InputError: ``out`` is something else, or an earlier one and ``force`` is not set.
        RunFailedError: it cannot be written.
    """
    with new_directory(out, contents(), force=force) as directory:
        create_json(directory / JSON_FILE, document)
        with create(directory / MARKDOWN_FILE) as file:
            file.write(f"# {PROGRAM} reproduce\n\n".encode())
            file.write("\n".join(markdown_of(one) for one in done).encode())
        for one in done:
            draw = one.judged.experiment.draw
            if plots and draw is not None:
                save(draw(one.judged.outcome), directory, one.judged.name, _DPI)
