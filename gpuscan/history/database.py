"""What the service decided and did, on the disk, in bounded room: a database of SQLite.

SQLite rather than Parquet: rows come a few at a time and are there after each transaction, a kill leaves what
was committed, old rows go without a rewrite, and ``sqlite3`` reads it anywhere. It writes ahead (WAL):
whoever reads does not wait for the service, and the service for nobody.

The service never fails for it: what cannot be written waits in bounded memory, then the oldest is dropped and
counted, and the status says why.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuscan.history.recording import Kind
from gpuscan.history.schema import INDEX, TABLE, VERSION
from gpuscan.linux.system import HERE, System

_MOST_WAITING = 10_000
_PAGE_BYTES = 4096
_WAL_PAGES = 256
_AT_A_TIME = 500
_ROW_BYTES = 128
_SPARE_PAGES = 8
_INSERT = "INSERT INTO note (t_ns, kind, policy, body) VALUES (?, ?, ?, ?)"
_DROP = (
    "DELETE FROM note WHERE id IN "
    "(SELECT id FROM note ORDER BY id LIMIT 1 + (SELECT count(*) FROM note) / 10)"
)
"""A tenth of the rows, the oldest."""
_Note = tuple[int, str, str | None, str]
_BUSY_MS = 200
_SCHEMA = f"CREATE TABLE IF NOT EXISTS {TABLE};\nCREATE INDEX IF NOT EXISTS {INDEX};"


class History:
    """A :class:`gpuscan.history.recording.Recorder` in a file.

    Args:
        path: of the database; its directory is made.
        most_bytes: that it may take, with its log; see :data:`gpuscan.service.config.HISTORY_BYTES_MIN`.
        system: whose clock counts.
    """

    def __init__(self, path: Path, most_bytes: int, system: System = HERE) -> None:
        self._path, self._system = path, system
        self._most_pages = most_bytes // _PAGE_BYTES - _WAL_PAGES
        self._waiting: deque[_Note] = deque()
        self._database: sqlite3.Connection | None = None
        self.lost = 0
        self.problem = ""
        self.flush()

    def note(self, kind: Kind, policy: str | None, body: dict[str, Any]) -> None:
        """See :class:`gpuscan.history.recording.Recorder`."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append((self._system.wall_ns(), kind, policy, json.dumps(body)))

    def flush(self) -> None:
        """Write what waits, in a transaction or a few; where that fails it waits on."""
        try:
            database = self._opened()
            while self._waiting:
                if self._is_log_full(database):
                    self.problem = f"somebody reads {self._path} all the time; end that, and it goes on"
                    return
                notes = list(itertools.islice(self._waiting, _AT_A_TIME))
                with database:
                    self._make_room(database, notes)
                    database.executemany(_INSERT, notes)
                for _ in notes:
                    self._waiting.popleft()
        except (sqlite3.Error, OSError) as error:
            self.problem = f"{self._path} cannot be written ({error}); make room, and it goes on"
            self._let_go()
            return
        self.problem = ""

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=_BUSY_MS / 1000)
            try:
                self._path.chmod(0o600)  # and so its log, which is made with the mode of the database
                version = database.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, VERSION):
                    raise sqlite3.DatabaseError(f"it is of version {version}, and {VERSION} is known")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
                database.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE_BYTES}")
                database.execute(f"PRAGMA max_page_count = {self._most_pages}")
                database.executescript(_SCHEMA)
                self._shrink(database)
                database.execute(f"PRAGMA user_version = {VERSION}")
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _is_log_full(self, database: sqlite3.Connection) -> bool:
        """Whether the log has its size and cannot be begun anew: a reader needs what is in it."""
        log = self._path.with_name(f"{self._path.name}-wal")
        if not log.exists() or log.stat().st_size < _WAL_PAGES * _PAGE_BYTES:
            return False
        return bool(database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    def _shrink(self, database: sqlite3.Connection) -> None:
        """Make it as small as it may be now: an earlier start may have given it more room."""
        if database.execute("PRAGMA page_count").fetchone()[0] <= self._most_pages:
            return
        with database:
            self._make_room(database, ())
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute(f"PRAGMA max_page_count = {self._most_pages}")

    def _make_room(self, database: sqlite3.Connection, notes: Sequence[_Note]) -> None:
        """Let the oldest rows go where new ones might not fit; pages that are free are used again."""
        n_bytes = sum(len(body.encode()) + _ROW_BYTES for _, _, _, body in notes)
        most = self._most_pages - _SPARE_PAGES - 2 * n_bytes // _PAGE_BYTES
        while self._used_pages(database) > most:
            dropped = database.execute(_DROP)
            if not dropped.rowcount:
                return

    def _used_pages(self, database: sqlite3.Connection) -> int:
        used, free = (
            int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count")
        )
        return used - free

    def _let_go(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def close(self) -> None:
        """Write what waits, and end."""
        self.flush()
        self._let_go()
