"""sqlite's shell, on a database that its page cache holds whole."""

from __future__ import annotations

from collections.abc import Sequence

from .. import records
from ..contract import Conversation, PipedProgram, run, spell

_CACHE_KIB = 48 << 10
_BODY = (
    f"printf('{records.MARK.decode()}%06d-%06d-', {{number}}, {{version}}) || "
    f"replace(hex(zeroblob({records.N_FILLERS})), '00',"
    f" printf('%08d', ({{number}} * {records.FACTORS[0]} + {{version}} * {records.FACTORS[1]}) % 100000000))"
)
_DONE = b"done\n"


class Program(PipedProgram):
    """All records as rows, in the heap of one process."""

    package = "sqlite3"
    needs = ("sqlite3",)

    @staticmethod
    def shares() -> list[float]:
        """As of a program."""
        return records.hot_range()

    def piped_command(self) -> list[str]:
        """As of a program."""
        return ["sqlite3", "-batch", "-noheader", str(self.folder / "database")]

    def fill(self, conversation: Conversation) -> None:
        """As of a program."""
        bodies = _BODY.format(number="value", version=0)
        sql = (
            f"PRAGMA cache_size = -{_CACHE_KIB}; CREATE TABLE records (id INTEGER PRIMARY KEY, body TEXT);"
            f"INSERT INTO records SELECT value, {bodies} FROM generate_series(0, {records.N_RECORDS - 1});"
            "SELECT 'done';\n"
        )
        conversation.ask(sql.encode(), _DONE)

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """As of a program."""
        sql = f"SELECT body FROM records WHERE id IN ({spell(numbers)}) ORDER BY id;\n"
        return sql.encode(), records.lines(numbers, version)

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """As of a program."""
        bodies = _BODY.format(number="id", version=version)
        sql = f"UPDATE records SET body = {bodies} WHERE id IN ({spell(numbers)}); SELECT 'done';\n"
        return sql.encode(), _DONE

    def check(self, conversation: Conversation, n_writes: int) -> None:
        """What it has in memory is a database."""
        conversation.ask(b"PRAGMA integrity_check;\n", b"ok\n")

    def check_files(self) -> None:
        """So is the file."""
        command = f'test "$(sqlite3 {self.folder}/database "PRAGMA integrity_check")" = ok'
        run(["sh", "-c", command])
