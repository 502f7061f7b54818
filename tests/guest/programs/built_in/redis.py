"""redis, without its own snapshots: one is asked for now and then, which is a fork."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .. import records
from ..contract import ANSWER_LIMIT_S, Conversation, SocketStore, Stream, run


class Program(SocketStore):
    """All records as strings, in one process and, while it saves, its child."""

    package = "redis-server"
    needs = ("redis-server", "redis-check-rdb")

    def command(self) -> list[str]:
        """As of a program."""
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket_path),
            "--dir": str(self.folder),
            "--save": "",
        }
        return ["redis-server", *(word for option in options.items() for word in option)]

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """As of a program."""
        asked = b"".join(_spoken(b"GET", b"r%06d" % number) for number in numbers)
        return asked, b"".join(_bulk(records.body(number, version)) for number in numbers)

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """As of a program."""
        bodies = ((b"r%06d" % number, records.body(number, version)) for number in numbers)
        return b"".join(_spoken(b"SET", *each) for each in bodies), b"+OK\r\n" * len(numbers)

    def disturb(self, conversation: Conversation) -> None:
        """Save, unless it still does."""
        if self._persistence(conversation)["rdb_bgsave_in_progress"] == "0":
            conversation.ask(_spoken(b"BGSAVE"), b"+Background saving started\r\n")

    def check(self, conversation: Conversation, n_writes: int) -> None:
        """The last save that ended was whole, and one now is."""
        deadline_s = time.monotonic() + ANSWER_LIMIT_S
        while self._persistence(conversation)["rdb_bgsave_in_progress"] == "1":
            assert time.monotonic() < deadline_s, f"redis has saved for {ANSWER_LIMIT_S:g} s"
            time.sleep(0.1)
        assert self._persistence(conversation)["rdb_last_bgsave_status"] == "ok"
        conversation.ask(_spoken(b"SAVE"), b"+OK\r\n")

    def check_files(self) -> None:
        """The last save is read by redis's own reader."""
        run(["redis-check-rdb", str(self.folder / "dump.rdb")])

    @staticmethod
    def _persistence(conversation: Conversation) -> dict[str, str]:
        assert isinstance(conversation, Stream)
        conversation.writer.write(_spoken(b"INFO", b"persistence"))
        conversation.writer.flush()
        n_bytes = int(conversation.reader.readline()[1:])
        text = conversation.reader.read(n_bytes + 2).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


def _spoken(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))
