"""``gpuscan report``: one page of a result, which anybody can open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from gpuscan.base.described import Option, described
from gpuscan.base.units import parse_bytes
from gpuscan.cli.options import Voice, takes_options
from gpuscan.cli.pages import check_new, show_page, write_page


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which page of which result."""

    result: Path = described(
        Path(), Option("A directory of --out, or a history of a service.", metavar="RESULT", is_argument=True)
    )
    out: Path = described(Path("report.html"), Option("The page.", ("--output", "-o"), metavar="FILE"))
    max_size: int = described(
        "5MB",
        Option("How large it may be; the map is coarser then.", metavar="SIZE", parse=parse_bytes),
    )
    force: bool = described(False, Option("Replace an earlier page."))
    is_opened: bool = described(False, Option("Open it in a browser.", ("--open",)))


@takes_options
def report(context: typer.Context, wanted: Wanted, voice: Voice) -> None:
    """Make one page of a result: it opens in any browser, offline, and requests nothing.

    \b
    gpuscan run --out results
    gpuscan report results -o page.html
    gpuscan report results -o small.html --max-size 2MB
    gpuscan report results --open
    gpuscan report /var/lib/gpuscan -o week.html      what the service did
    """
    from gpuscan.report.catalogue import page_of
    from gpuscan.report.page import require_bokeh

    output = voice.output()
    require_bokeh()
    check_new(wanted.out, force=wanted.force)
    made_by = context.obj.line
    n_bytes, notes = write_page(page_of(wanted.result), wanted.out, wanted.result, wanted.max_size, made_by)
    output.document({"kind": "page", "path": str(wanted.out), "bytes": n_bytes, "notes": list(notes)})
    for note in notes:
        output.note(f"gpuscan: note: {note}")
    output.line(f"{wanted.out}: {n_bytes:,} bytes" + ("" if wanted.is_opened else "; open it in a browser"))
    if wanted.is_opened:
        show_page(wanted.out, output)
