"""Reading a history, also while a service writes it; a file that others made is taken to be hostile.

SQLite's own advice for such files (https://www.sqlite.org/security.html): nothing of the schema is trusted,
lengths are limited. The schema has to be the very text that the service writes, so no view, trigger or
generated column can run.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpuscan.base.documents import table, whole
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.files.reading import UnfitError, parse_json
from gpuscan.history.schema import BEGINS, TABLE, VERSION

_READ_MS = 5_000
_NOTE_BYTES_MAX = 4 << 20
"""Of one note: the names of all rules of a configuration are the longest."""
_PART_BYTES = 1 << 20
_SELECT = (
    "SELECT id, t_ns, kind, policy, body FROM note NOT INDEXED"
    " WHERE t_ns >= ? AND id > ? ORDER BY id LIMIT 1000"
)
_SPAN = ("SELECT t_ns FROM note ORDER BY t_ns LIMIT 1", "SELECT t_ns FROM note ORDER BY t_ns DESC LIMIT 1")
_STEPS = 10_000
"""Of SQLite's machine, between two looks at whether it goes on."""
_STEPS_A_BYTE = 4
"""A row takes some 15 steps and 30 bytes at least, so a sound file is read with a tenth of that."""
_STEPS_SPARE = 1 << 20
_NS_MAX = (1 << 63) - 1
Row = tuple[int, int, str, str | None, str]


def read_notes(path: Path, since_ns: int) -> Iterator[dict[str, Any]]:
    """Yield what was noted since a time (since 1970, ns), oldest first; also while a service writes.

    Raises:
        InputError: there is no history, or it cannot be read; says whether it is cut short, of a later
            version, or none.
    """
    with _reading(path) as database:
        last = -1
        # In parts: while one is read, the log cannot be begun anew.
        while rows := _part(database, since_ns, last):
            for number, t_ns, kind, policy, body in rows:
                if number <= last:
                    raise UnfitError("is damaged: its notes are out of order; give another place")
                last = number
                yield {
                    **_table(body),
                    "t_ns": _ns(t_ns),
                    "kind": _text(kind),
                    "policy": policy and _text(policy),
                }


def time_span(path: Path) -> tuple[int, int] | None:
    """Return the times of the earliest and of the latest note (since 1970, ns); None where there is none.

    Raises:
        InputError: see :func:`read_notes`.
    """
    with _reading(path) as database:
        first, last = (database.execute(statement).fetchone() for statement in _SPAN)
        if first is None or last is None:
            return None
        span = _ns(first[0]), _ns(last[0])
        if span[0] > span[1]:
            raise UnfitError("is damaged: its index is out of order; give another place")
        return span


@contextlib.contextmanager
def checked(path: Path) -> Iterator[None]:
    """Have a note that makes no sense, an ArgumentError, become an InputError that names the history."""
    try:
        yield
    except ArgumentError as error:
        raise InputError(
            f"the history {path} is damaged: it has a note that gpuscan does not write ({error}); "
            "give another place"
        ) from error


class _Bound:
    """Ends what takes more steps than a sound file of this size needs: pages may have many parents.

    SQLite looks at no signal, so this is also where one is met.
    """

    def __init__(self, path: Path) -> None:
        n_bytes = sum(each.stat().st_size for each in (path, _log(path)) if each.exists())
        self._n_left = (_STEPS_SPARE + _STEPS_A_BYTE * n_bytes) // _STEPS

    def is_over(self) -> bool:
        self._n_left -= 1
        return self.was_met

    @property
    def was_met(self) -> bool:
        return self._n_left < 0


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Have a history open inside the block, in which what is wrong with it becomes an InputError."""
    if not path.is_file():
        raise InputError(f"there is no history at {path}; a service that runs keeps one, or give its place")
    bound = _Bound(path)
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_READ_MS / 1000)
        with contextlib.closing(database):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _NOTE_BYTES_MAX)
            database.set_progress_handler(bound.is_over, _STEPS)
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA cell_size_check = ON")
            _check_schema(database)
            yield database
    except (sqlite3.Error, OSError, UnfitError, ValueError) as error:
        if bound.was_met:
            raise InputError(
                f"the history {path} is damaged: reading it has no end; give another place"
            ) from error
        if isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error  # sqlite3 drops what a signal raised in the handler
        raise InputError(_why_not(path, error)) from error


def _code(error: sqlite3.Error) -> int | None:
    return getattr(error, "sqlite_errorcode", None)


def _check_schema(database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise UnfitError(
            f"is of version {version}, and {VERSION} is known here; read it with the gpuscan that wrote it"
        )
    found = database.execute("SELECT sql FROM sqlite_master WHERE name = 'note' LIMIT 1").fetchone()
    if found is None and version == 0:
        raise UnfitError("has nothing in it; the service that keeps it has only begun, or it is another's")
    if found is None or found[0] != f"CREATE TABLE {TABLE}":
        raise UnfitError("is no history of gpuscan's, but another database; give the place of one")


def _part(database: sqlite3.Connection, since_ns: int, last: int) -> list[Row]:
    rows: list[Row] = []
    n_bytes = 0
    with contextlib.closing(database.execute(_SELECT, (since_ns, last))) as cursor:
        for row in cursor:
            rows.append(row)
            n_bytes += len(_text(row[4]))
            if n_bytes > _PART_BYTES:
                break
    return rows


def _table(body: Any) -> dict[str, Any]:
    return dict(table(parse_json(_text(body).encode()), "a note"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitError("is damaged: it has notes that gpuscan does not write; give another place")
    return value


def _ns(value: Any) -> int:
    return whole(value, 0, _NS_MAX, "the time of a note")


def _why_not(path: Path, error: Exception) -> str:
    if isinstance(error, UnfitError):
        return f"the history {path} {error}"
    size = _sizes(path)
    if size is None:
        return f"{path} is no history: it is no database of SQLite; give the place of one"
    there, said = size
    if there < said:
        return (
            f"the history {path} is cut short: {there:,} bytes are there of {said:,} ({error}); copy it "
            "again with its log (-wal), or by sqlite3's .backup"
        )
    if isinstance(error, sqlite3.OperationalError):
        return f"the history {path} cannot be read ({error}); give another place, or use sudo"
    return f"the history {path} cannot be read: it is damaged ({error}); give another place"


def _sizes(path: Path) -> tuple[int, int] | None:
    """Return how many bytes are there, and how many there should be; None where it is no database.

    The header has the size of a page at 16, and how many there are at 28 (fileformat.html, 1.3).
    """
    try:
        there = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return 0, 0  # the error says more
    if not header.startswith(BEGINS[: len(header)]):
        return None
    page_bytes = int.from_bytes(header[16:18], "big")
    n_pages = int.from_bytes(header[28:32], "big")
    return there, max(100, n_pages * (65536 if page_bytes == 1 else page_bytes))
