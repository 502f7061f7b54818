"""A comparison in a few sentences: who finds pages soonest, at what cost, what is lost, what differs.

Worked out from the document's cells, whatever they say: of us too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpuscan.base.units import format_count, format_time
from gpuscan.designs.catalogue import DESIGNS

_ALIKE = 0.01
"""Two shares that are no further apart than that are called the same."""
_AS_SOON = 0.05
"""The same of two delays: what designs are asked at random moments differs by as much."""
AT_ONE_PERCENT = "delay_at_1_percent"
"""The column of delays where looking takes 1% of a core."""
_NAMES_MAX = 3


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Return four or five sentences on a comparison's document; fewer where it has no figures for one."""
    table = _Table(document)
    sentences = (_at_one_cost(table), _soonest(table), _cost(table), _lost(table), _worth(table))
    return [sentence for sentence in sentences if sentence]


class _Table:
    """The numbers of a document's cells; ``ours`` are the designs that run on a store, timed for real."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.names: Sequence[str] = document["designs"]
        self.ours = next((name for name in self.names if _is_ours(name)), None)

    def row(self, key: str) -> dict[str, float]:
        """Return the numbers of a column by design, of those that have one."""
        cells = ((name, self.document["cells"][name].get(key)) for name in self.names)
        return {name: cell["number"] for name, cell in cells if cell is not None and not cell["why_not"]}


def _is_ours(name: str) -> bool:
    return name in DESIGNS and DESIGNS.get(name).runs_on_a_store


def _at_one_cost(table: _Table) -> str:
    """Say who is soonest where all may cost the same, and why others have no figure there."""
    delays = table.row(AT_ONE_PERCENT)
    if not delays:
        return ""
    least = min(delays.values())
    first = [name for name, delay in delays.items() if delay <= least * (1 + _AS_SOON)]
    said = f"At 1% of a core {_listed(first)} {_verb('find', first)} pages soonest, half of them within "
    said += format_time(least)
    if table.ours in delays and table.ours not in first:
        assert table.ours is not None
        said += f", and {table.ours} within {format_time(delays[table.ours])}"
    lacking: dict[str, list[str]] = {}
    for name in table.names:
        if name not in delays:
            why = str(table.document["cells"][name][AT_ONE_PERCENT]["why_not"])
            lacking.setdefault(why, []).append(name)
    if lacking:
        whys = [f"{_listed(names)} ({why})" for why, names in lacking.items()]
        said += f"; no figure there: {_joined(whys)}"
    return f"{said}."


def _soonest(table: _Table) -> str:
    delays = table.row("delay_p50")
    if not delays:
        return "No design found a page that was asked for."
    least = min(delays.values())
    first = [name for name, delay in delays.items() if delay <= least * (1 + _AS_SOON)]
    ours = table.ours
    said = f"{_listed(first)} {_verb('find', first)} pages soonest as published, "
    said += f"half of them within {format_time(least)}"
    if ours in first or ours not in delays:
        rest = {name: delay for name, delay in delays.items() if name not in first}
        if not rest:
            return f"{said} of their mark."
        last = max(rest, key=lambda name: rest[name])
        return f"{said} of their mark; the latest is {last}, {format_time(rest[last])}."
    assert ours is not None
    interval_ns = table.document["policy"]["interval_ns"]
    asked = f", as it looks once in {format_time(interval_ns)}" if delays[ours] <= interval_ns else ""
    return f"{said} of their mark; {ours} within {format_time(delays[ours])}{asked}."


def _cost(table: _Table) -> str:
    busy, delays = table.row("busy"), table.row("delay_p50")
    busy = {name: share for name, share in busy.items() if name in delays}  # what found nothing costs nothing
    if not busy:
        return ""
    by_cost = sorted(busy, key=lambda name: busy[name])
    most, least, ours = by_cost[-1], by_cost[0], table.ours
    alike = [name for name in by_cost if busy[name] >= busy[most] * (1 - _ALIKE)]
    said = f"Looking costs {_listed(alike)} {_percent(busy[most])} of a core"
    if ours in busy and ours not in alike:
        assert ours is not None
        said += f" and {ours} {_percent(busy[ours])}"
        said += ", the least of all" if least == ours else ""
    return (
        f"{said}." if least in (ours, *alike) else f"{said}; it costs {least} least, {_percent(busy[least])}."
    )


def _lost(table: _Table) -> str:
    moved = max(table.row("moved").values(), default=0.0)
    astray, lost = _counts(table, "wrong_node"), _counts(table, "lost")
    if astray:
        said = f"To a wrong node went {astray}, of up to {format_count(round(moved))} folios that moved"
    else:
        said = "No folio went to a wrong node"
    return f"{said}; requests lost: {lost}." if lost else f"{said}; no request was lost."


def _counts(table: _Table, key: str) -> str:
    """Return the counts of a row that are not 0, largest first, each with the designs that have it."""
    by_count: dict[str, list[str]] = {}
    for name, count in sorted(table.row(key).items(), key=lambda item: -item[1]):
        if count >= 1:
            by_count.setdefault(format_count(round(count)), []).append(name)
    groups = [*by_count.items()]
    told = [group for at, group in enumerate(groups) if at < _NAMES_MAX or table.ours in group[1]]
    shown = [f"{count} under {_listed(names)}" for count, names in told]
    if n_more := sum(len(names) for _, names in groups if names not in [group[1] for group in told]):
        shown.append(f"less under {n_more} more")
    return _joined(shown)


def _worth(table: _Table) -> str:
    shares = table.row("fast_share")
    if not shares:
        return ""
    by_share = sorted(shares, key=lambda name: shares[name])
    least, most, ours = by_share[0], by_share[-1], table.ours
    start = _start(table)
    if shares[most] - shares[least] <= _ALIKE:
        return f"At the end fast memory serves {shares[most]:.1%} of the accesses under all of them{start}."
    alike = [name for name in reversed(by_share) if shares[name] >= shares[most] - _ALIKE]
    said = f"At the end fast memory serves {shares[most]:.1%} of the accesses under {_listed(alike)}"
    if ours in shares and ours not in alike:
        assert ours is not None
        said += f", {shares[ours]:.1%} under {ours}"
    if least != ours:
        said += f" and {shares[least]:.1%} under {least}"
    return f"{said}{start}."


def _start(table: _Table) -> str:
    curves = table.document["curves"]
    for name in table.names:
        for share in curves[name]["fast"]["share"][:1]:
            if share is not None and not math.isnan(share):
                return f"; it began with {share:.1%}"
    return ""


def _listed(names: Iterable[str]) -> str:
    """Return names as a person lists them, and how many more there are."""
    given = list(names)
    shown = given if len(given) <= _NAMES_MAX + 1 else given[:_NAMES_MAX]
    if len(shown) < len(given):
        return f"{', '.join(shown)} and {len(given) - len(shown)} more"
    return _joined(shown)


def _joined(texts: Sequence[str]) -> str:
    """Return texts with commas between them, and an "and" before the last."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def _verb(verb: str, names: Sequence[str]) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def _percent(share: float) -> str:
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
