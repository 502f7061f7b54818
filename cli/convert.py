"""``gpuscan convert``: a trace of any format as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuscan.base.given import GIVEN_OPTION


def convert(
    trace: Annotated[Path, typer.Argument(metavar="IN", help="A trace of any format that is read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.parquet or NAME.csv.")],
    given: Annotated[
        list[str] | None,
        typer.Option(*GIVEN_OPTION.flags, metavar=GIVEN_OPTION.metavar, help=GIVEN_OPTION.help),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a trace as a table, Parquet or CSV; it is read back as it was.

    \b
    gpuscan convert mem.txt mem.parquet       a tenth of the size
    gpuscan inspect mem.parquet               what is in it
    gpuscan run --trace mem.parquet           replays it
    """
    from gpuscan.base.given import parse_given
    from gpuscan.base.units import format_number
    from gpuscan.cli.output import Output
    from gpuscan.cli.pages import check_new
    from gpuscan.traces import open_trace
    from gpuscan.traces.convert import convert as write

    output = Output(as_json)
    check_new(out, force=force)
    found = open_trace(trace, parse_given(given or ()))
    with output.progress(f"reading {trace.name}", found.n_bytes, unit="bytes") as bar:
        counts = write(found, out, bar.advance)
    output.document({"trace": trace, "format": found.kind, "out": out, **counts})
    left_out = sum(n for name, n in counts.items() if name != "samples")
    output.line(
        f"Written to {out}: {format_number(counts['samples'], found.format.noun)} of {trace} ({found.kind}), "
        f"{left_out:,} left out before; replay it with: gpuscan run --trace {out}"
    )
