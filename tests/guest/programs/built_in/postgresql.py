"""PostgreSQL: buffers that all its processes map, and a new process for each connection."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from .. import records
from ..contract import ANSWER_LIMIT_S, NOBODY, Conversation, RealProgram, held_against, run, spell

_LIBRARY = Path("/usr/lib/postgresql")
_PROTOCOL = 3 << 16
_BUFFERS = "48MB"
_BODY = (
    f"'{records.MARK.decode()}' || lpad({{number}}::text, 6, '0') || '-' || "
    "lpad({version}::text, 6, '0') || '-' || "
    f"repeat(lpad((({{number}}::bigint * {records.FACTORS[0]} + {{version}}::bigint * {records.FACTORS[1]}) "
    f"% 100000000)::text, 8, '0'), {records.N_FILLERS})"
)


class Backend(Conversation):
    """A connection, by the simple queries of its protocol (version 3)."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_LIMIT_S)
            connection.connect(str(path))
            self._reader = connection.makefile("rb")
            self._writer = connection.makefile("wb")
        self.pid = 0
        self._say(b"", struct.pack("!i", _PROTOCOL) + b"user\0nobody\0database\0postgres\0\0")
        self._answer()

    def prepare(self) -> None:
        """Have the query for records planned; there must be some."""
        self.values("PREPARE of_ids(int[]) AS SELECT body FROM records WHERE id = ANY($1) ORDER BY id")

    def ask(self, request: bytes, expected: bytes) -> None:
        """As of a conversation."""
        self._say(b"Q", request + b"\0")
        held_against(expected, self._answer())

    def values(self, sql: str) -> list[str]:
        """Return the first value of each row that a query returns."""
        self._say(b"Q", sql.encode() + b"\0")
        return self._answer().decode().splitlines()

    def close(self) -> None:
        """As of a conversation."""
        self._say(b"X", b"")
        self._reader.close()
        self._writer.close()

    def _say(self, kind: bytes, content: bytes) -> None:
        self._writer.write(kind + struct.pack("!i", len(content) + 4) + content)
        self._writer.flush()

    def _answer(self) -> bytes:
        rows: list[bytes] = []
        while True:
            head = self._reader.read(5)
            if len(head) < 5:
                raise ConnectionError("it has hung up")
            kind, n_bytes = struct.unpack("!ci", head)
            content = self._reader.read(n_bytes - 4)
            match kind:
                case b"D":
                    (n_value,) = struct.unpack_from("!i", content, 2)
                    rows.append(content[6 : 6 + n_value] + b"\n")
                case b"K":
                    (self.pid,) = struct.unpack_from("!i", content)
                case b"E":
                    # One that is sent while it starts ends the connection.
                    raise ConnectionError(content.decode(errors="replace").replace("\0", " "))
                case b"Z":
                    return b"".join(rows)


class Program(RealProgram):
    """All records as rows of a table that its buffers hold whole."""

    package = "postgresql"
    needs = ()
    n_requests_a_connection = 1000
    # With "damon" each of its processes takes a kdamond, and they the guest's CPUs.
    monitor = "damon-paddr"
    ends_by = signal.SIGINT

    @classmethod
    def missing(cls) -> str | None:
        """As of a program: Debian has it in no folder of the path."""
        return None if _programs() else f"Debian's package {cls.package} is not installed"

    @staticmethod
    def shares() -> list[float]:
        """As of a program."""
        return records.hot_range()

    def prepare(self) -> None:
        """Make an empty database, its pages with checksums."""
        options = ["--auth=trust", "--data-checksums", "--no-sync", "--locale=C", "--encoding=UTF8"]
        as_whom = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        run(
            [_program("initdb"), "-D", str(self._data), "-U", "nobody", *options],
            **as_whom,
            cwd=self.folder,
        )

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def command(self) -> list[str]:
        """As of a program."""
        settings = {
            "shared_buffers": _BUFFERS,
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "huge_pages": "off",
            "wal_buffers": "64kB",
            "max_wal_size": "64MB",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        started = [_program("postgres"), "-D", str(self._data), *words]
        if os.geteuid() == 0:
            return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *started]
        return started

    def connect(self) -> Backend:
        """As of a program."""
        backend = Backend(self.folder / ".s.PGSQL.5432")
        if backend.values("SELECT 1 FROM pg_class WHERE relname = 'records'"):
            backend.prepare()
        return backend

    def fill(self, conversation: Conversation) -> None:
        """As of a program; and the process that is asked has all of the table in its page tables."""
        assert isinstance(conversation, Backend)
        bodies = _BODY.format(number="id", version=0)
        last = records.N_RECORDS - 1
        filling = self.connect()  # its process keeps copies of rows, until it ends
        for sql in (
            "CREATE TABLE records (id int PRIMARY KEY, body text NOT NULL)",
            f"INSERT INTO records SELECT id, {bodies} FROM generate_series(0, {last}) AS id",
            "CREATE EXTENSION amcheck",
            "VACUUM ANALYZE records",
            "CHECKPOINT",
        ):
            filling.values(sql)
        filling.close()
        conversation.values("SET max_parallel_workers_per_gather = 0")
        n_bytes = conversation.values("SELECT sum(length(body)) FROM records")
        assert n_bytes == [str(records.N_RECORDS * records.BODY_BYTES)]
        conversation.prepare()

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """As of a program."""
        return f"EXECUTE of_ids('{{{spell(numbers)}}}')".encode(), records.lines(numbers, version)

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """As of a program."""
        bodies = _BODY.format(number="id", version=version)
        return f"UPDATE records SET body = {bodies} WHERE id IN ({spell(numbers)})".encode(), b""

    def holder(self, conversation: Conversation, pid: int) -> int:
        """The process of the connection that has filled it."""
        assert isinstance(conversation, Backend)
        return conversation.pid

    def check(self, conversation: Conversation, n_writes: int) -> None:
        """The table and its index are well formed, and each row is in the index."""
        assert isinstance(conversation, Backend)
        assert conversation.values("SELECT msg FROM verify_heapam('records')") == []
        conversation.values("SELECT bt_index_check('records_pkey', true)")

    def check_files(self) -> None:
        """The checksums of all pages on the disk are right."""
        run([_program("pg_checksums"), "--check", "-D", str(self._data)])


def _programs() -> list[Path]:
    """Return the folders of all versions that are whole, the newest last."""
    found = [
        file.parent for file in _LIBRARY.glob("*/bin/postgres") if (file.parent / "pg_checksums").exists()
    ]
    return sorted(found, key=lambda folder: float(folder.parent.name))


def _program(name: str) -> str:
    return str(_programs()[-1] / name)
