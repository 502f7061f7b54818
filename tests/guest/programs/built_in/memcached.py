"""memcached: a slab of items, four threads."""

from __future__ import annotations

from collections.abc import Sequence

from .. import records
from ..contract import SocketStore


class Program(SocketStore):
    """All records as items, in one process."""

    package = "memcached"
    needs = ("memcached",)

    def command(self) -> list[str]:
        """As of a program."""
        return ["memcached", "-s", str(self.socket_path), "-m", "64", "-u", "nobody", "-a", "0777"]

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """As of a program."""
        asked = b"get " + b" ".join(b"r%06d" % number for number in numbers) + b"\r\n"
        head = b"VALUE r%06d 0 %d\r\n%s\r\n"
        found = (head % (number, records.BODY_BYTES, records.body(number, version)) for number in numbers)
        return asked, b"".join(found) + b"END\r\n"

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """As of a program."""
        head = b"set r%06d 0 0 %d\r\n%s\r\n"
        said = (head % (number, records.BODY_BYTES, records.body(number, version)) for number in numbers)
        return b"".join(said), b"STORED\r\n" * len(numbers)
