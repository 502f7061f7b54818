"""``gpuscan report``: one page of a result, which anybody can open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.described import Option, described
from gpuscan.base.units import parse_bytes
from gpuscan.cli.options import Voice, takes_options


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which page of which result."""

    result: Path = described(
        Path(), Option("The directory of --out of run or compare.", metavar="RESULT", is_argument=True)
    )
    out: Path = described(Path("report.html"), Option("The page.", ("--output", "-o"), metavar="FILE"))
    max_size: int = described(
        "5MB",
        Option("How large it may be; the map is coarser then.", metavar="SIZE", parse=parse_bytes),
    )
    force: bool = described(False, Option("Replace an earlier page."))


@takes_options
def report(wanted: Wanted, voice: Voice) -> None:
    """Make one page of a result: it opens in any browser, offline, and requests nothing.

    \b
    gpuscan run --out results
    gpuscan report results -o page.html
    gpuscan report results -o small.html --max-size 2MB
    """
    from gpuscan.base.errors import InputError
    from gpuscan.files.writing import check_file, write_file
    from gpuscan.report.catalogue import page_of
    from gpuscan.report.page import page_html, require_bokeh

    output = voice.output()
    require_bokeh()
    check_file(wanted.out)
    if wanted.out.exists() and not wanted.force:
        raise InputError(f"{wanted.out} is there already; give another place, or --force to replace it")
    text, notes = page_html(page_of(wanted.result), wanted.result, wanted.max_size)
    write_file(wanted.out, text)
    n_bytes = len(text.encode())
    output.document({"kind": "page", "path": str(wanted.out), "bytes": n_bytes, "notes": list(notes)})
    for note in notes:
        output.note(f"gpuscan: note: {note}")
    output.line(f"{wanted.out}: {n_bytes:,} bytes; open it in a browser")
