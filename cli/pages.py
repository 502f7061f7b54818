"""A page that a command makes: checked before there is anything to put on it, written, and opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.report.contract import Page


def check_new(path: Path, *, force: bool) -> None:
    """Check that a file can be put there, before there is anything to put there.

    Raises:
        InputError: something is there already, and ``force`` is not set, or it is no file.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.files.writing import check_file

    check_file(path)
    if path.exists() and not force:
        raise InputError(f"{path} is there already; give another place, or --force to replace it")


def write_page(
    page: Page, path: Path, result: Path | None, max_bytes: int | None = None, made_by: str = ""
) -> tuple[int, tuple[str, ...]]:
    """Write a page; return its bytes, and sentences on what was made coarser for its size.

    Args:
        page, result, made_by: see :func:`gpuscan.report.page.page_html`.
        path: where; what is there is replaced.
        max_bytes: by default 5 MB.

    Raises:
        InputError: what is no map does not fit.
        RunFailedError: the system refused it; nothing was left.
    """
    from gpuscan.files.writing import new_file
    from gpuscan.report.page import MAX_BYTES, page_html

    found, notes = page_html(page, result, max_bytes or MAX_BYTES, made_by)
    with new_file(path) as file:
        file.write(found)
    return len(found), notes


def show_page(path: Path, output: Output) -> None:
    """Open a page in the user's browser, if there is one."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        output.note(f"gpuscan: note: there is no browser here to open {path} in; open it on another machine")
