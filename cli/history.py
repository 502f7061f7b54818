"""``gpuscan history``: what the service decided and did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gpuscan.cli.output import Output


def history(
    since: Annotated[str, typer.Option(metavar="TIME", help="From so long ago: 1d, 12h, 30min.")] = "1d",
    place: Annotated[
        Path | None, typer.Option("--history", metavar="PATH", help="Where it lies, if elsewhere.")
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="Each note, not the sums alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines: one object a note.")] = False,
) -> None:
    """Show what 'gpuscan service' did: moved and refused by rule, starts, reloads, orders.

    \b
    gpuscan history --since 7d             sums of a week
    gpuscan history --since 1h --events    note by note
    gpuscan history --json | jq -c 'select(.kind == "moved")'
    """
    import sys
    import time

    from gpuscan.base.printable import harmless_json
    from gpuscan.cli.output import Output
    from gpuscan.files.writing import json_text
    from gpuscan.history.reading import checked, read_notes
    from gpuscan.history.schema import HISTORY
    from gpuscan.history.tally import tally

    output = Output(as_json)
    path = place or Path("/") / HISTORY
    notes = read_notes(path, time.time_ns() - _since_ns(since))
    if as_json:
        for note in notes:
            sys.stdout.write(harmless_json(json_text(note, indent=None)) + "\n")
        return
    listed = list(notes)
    with checked(path):
        sums = tally(listed)
    _print(listed, sums, since, output, all_of_them=events)


def _since_ns(text: str) -> int:
    """Return a time; days, too, which no other command needs."""
    from gpuscan.base.units import parse_time_ns

    days = text.strip().removesuffix("d")
    if text.strip().endswith("d") and days.isascii() and days.isdigit() and len(days) < 6:
        return int(days) * 24 * 3600 * 10**9
    return parse_time_ns(text)


def _print(
    notes: list[dict[str, Any]],
    sums: dict[str, dict[str, Any]],
    since: str,
    output: Output,
    *,
    all_of_them: bool,
) -> None:
    import datetime

    from rich.table import Table

    from gpuscan.base.units import PAGE_BYTES, format_bytes
    from gpuscan.history.course import EVENTS
    from gpuscan.history.tally import said

    if not notes:
        output.line(f"nothing was noted in the last {since}")
        return
    if sums:
        table = Table("rule", "up", "down", "to nodes", box=None, header_style="bold", pad_edge=False)
        for name, one in sums.items():
            where = ", ".join(
                f"{nid}: {format_bytes(n * PAGE_BYTES)}" for nid, n in one["moved_pages_to"].items()
            )
            moved = (format_bytes(one[key] * PAGE_BYTES) for key in ("promoted_pages", "demoted_pages"))
            table.add_row(name, *moved, where or "-")
        output.table(table)
        output.line()
    refused = [(name, why, n) for name, one in sums.items() for why, n in one["refused"].items()]
    if refused:
        table = Table("rule", "not moved", "times", box=None, header_style="bold", pad_edge=False)
        for name, why, n in refused:
            table.add_row(name, why, f"{n:,}")
        output.table(table)
        output.line()
    for note in notes:
        if all_of_them or note["kind"] in EVENTS:
            when = datetime.datetime.fromtimestamp(note["t_ns"] / 1e9).isoformat(" ", "seconds")
            of = f" of {note['policy']}" if note["policy"] else ""
            output.line(f"{when}  {note['kind']}{of}: {said(note)}")
