"""A page of ``gpuscan reproduce --out``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import format_figure
from gpuscan.report.contract import About, Bars, Figure, Page, ResultKind, Table

_COLUMNS = ("", "published", "ours", "difference", "")


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of published experiments; see :class:`ResultKind`."""
    facts = (
        ("reached", f"{document['reached']} of {document['judged']} figures and orders"),
        ("counts within", f"{document['bars']['count']:.0%}"),
        ("rates and ratios within", f"{document['bars']['rate']:.0%}"),
        ("took", f"{document['seconds']:.0f} s"),
    )
    figures: list[Figure] = []
    for experiment in document["experiments"]:
        figures += _of(experiment)
    return Page(
        "Published experiments, run again",
        "what others measured, and what the models here give",
        facts,
        tuple(figures),
    )


def _of(experiment: Mapping[str, Any]) -> Iterator[Figure]:
    name = str(experiment["name"])
    rows = experiment["rows"]
    command = f"gpuscan reproduce {name}"
    said = f"{experiment['about']}. Source: {experiment['source']}. {' '.join(_remarks(experiment))}"
    ratios = [
        (str(row["what"]), row["ours"] / row["published"])
        for row in rows
        if isinstance(row["published"], int | float) and row["published"] and row["ours"] is not None
    ]
    if len(ratios) > 1:
        about = About(
            f"{name}: ours over published",
            "A bar that ends at 1 is what was published; rates and ratios should end in the marked band, "
            "counts at 1.",
            command,
        )
        yield Bars(about, "ours / published", tuple(ratios), (0.9, 1.1))
    if rows:
        about = About(f"{name}: {experiment['reached']} of {experiment['judged']} reached", said, command)
        yield Table(about, _COLUMNS, tuple(_cells(row) for row in rows))
    for table in experiment["tables"]:
        about = About(f"{name}: {table['title']}", said if not rows else "", command)
        cells = (tuple(format_figure(cell) for cell in row) for row in table["rows"])
        yield Table(about, tuple(map(str, table["columns"])), tuple(cells))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    unit = f" {row['unit']}" if row["unit"] else ""
    ours = "-" if row["ours"] is None else format_figure(row["ours"]) + unit
    difference = "" if row["difference"] is None else f"{round(row['difference'], 4) + 0.0:+.1%}"
    return str(row["what"]), format_figure(row["published"]) + unit, ours, difference, str(row["verdict"])


def _remarks(experiment: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"Missed: {row['what']}: {row['missing']}." for row in experiment["rows"] if row["missing"])
    for order in experiment["orders"]:
        if not order["as_published"]:
            yield f"Order of {order['what']} not as published: {order['missing']}."
    if experiment["fitted"]:
        yield f"Fitted: {'; '.join(experiment['fitted'])}."
    if experiment["not_modelled"]:
        yield f"Not modelled: {'; '.join(experiment['not_modelled'])}."


RESULT_KIND = ResultKind("reproduce.json", "reproduce", page)
