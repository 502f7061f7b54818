"""All kinds of results that a page can be made of, and which of them a directory is.

They are those in ``built_in``, and those of other packages by the entry points ``gpuscan.result_kinds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.documents import table
from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, parse_json, read_file
from gpuscan.report.contract import Page, ResultKind
from gpuscan.run.tables import Tables

RESULT_KINDS = Catalogue("result kind", "gpuscan.report.built_in", ResultKind, "RESULT_KIND")


def page_of(result: Path) -> Page:
    """Return the page of a result.

    Raises:
        InputError: it is none, or damaged, or of a kind of which no page can be made yet.
    """
    kind, document, place = _kind_of(result)
    try:
        return kind.page(document, place)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        why = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{result / kind.marker} is not what gpuscan writes ({why}); make it anew"
        ) from error


def page_of_run(document: Mapping[str, Any], tables: Tables) -> Page:
    """Return the page of a run that has just ended, which need not be kept anywhere.

    Args:
        document: of a kind of result that has the name of its document.
        tables: what it has beside that.

    Raises:
        InputError: of such a result no page can be made at once.
    """
    name = str(document["kind"])
    make = RESULT_KINDS.get(name).page_of_tables
    if make is None:
        raise InputError(f"no page can be made at once of a result of {name}; make it of its --out")
    return make(document, tables)


def has_page(result: Path) -> bool:
    """Whether a directory is a result of which a page can be made."""
    try:
        _kind_of(result)
    except InputError:
        return False
    return True


def kind_of(result: Path) -> ResultKind:
    """Return which kind of result a directory is.

    Raises:
        InputError: it is none, or not there.
    """
    return _kind_of(result)[0]


def _kind_of(result: Path) -> tuple[ResultKind, Mapping[str, Any], Path]:
    """Return which kind a result is of, its document, and what its page is made of."""
    kinds, _ = RESULT_KINDS.usable()
    if not result.exists():
        raise InputError(f"{result} is not there; give the directory of --out of {' or '.join(kinds)}")
    for kind in kinds.values():
        path = result / kind.marker
        if kind.begins:
            if path.is_file():
                return kind, {}, path
            if _begins(result, kind.begins):
                return kind, {}, result
        elif path.is_file() and (document := _document(path)).get("kind") == kind.document_kind:
            return kind, document, result
    raise InputError(f"{result} holds no result of {' or '.join(kinds)}; give the directory of their --out")


def _begins(path: Path, begins: bytes) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(begins)) == begins
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give another place, or use sudo"
        ) from error


def _document(path: Path) -> dict[str, Any]:
    try:
        return dict(table(parse_json(read_file(path)), "the document"))
    except (UnfitError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable result ({error}); make it anew") from error
