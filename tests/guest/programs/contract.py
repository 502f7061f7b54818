"""What a program says of itself. The client imports this and a member and stays small: no NumPy here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, ClassVar

from . import records

ANSWER_LIMIT_S = 120.0
NOBODY = 65534
"""Debian's user and group ``nobody``."""


class WrongAnswer(AssertionError):
    """A program did not answer what it must."""


def held_against(expected: bytes, got: bytes) -> None:
    """Compare an answer.

    Raises:
        WrongAnswer: it is another one; the message has what both say from the first byte that differs.
    """
    if got != expected:
        pairs = enumerate(zip(expected, got, strict=False))
        first = next((at for at, (wanted, said) in pairs if wanted != said), min(len(expected), len(got)))
        raise WrongAnswer(
            f"{len(got)} bytes for {len(expected)}; from byte {first}: {got[first : first + 60]!r}, "
            f"and not {expected[first : first + 60]!r}"
        )


class Conversation(ABC):
    """A connection to a program."""

    @abstractmethod
    def ask(self, request: bytes, expected: bytes) -> None:
        """Send a request, wait for its answer, and compare that; :class:`WrongAnswer`."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""


class Stream(Conversation):
    """Bytes both ways, of which the expected answer says how many there are."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, request: bytes, expected: bytes) -> None:
        """As of a conversation."""
        self.writer.write(request)
        self.writer.flush()
        held_against(expected, self.reader.read(len(expected)))

    def close(self) -> None:
        """As of a conversation."""
        self.reader.close()
        self.writer.close()


def over_socket(path: Path) -> Stream:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_LIMIT_S)
        connection.connect(str(path))
        return Stream(connection.makefile("rb"), connection.makefile("wb"))


class RealProgram:
    """A program, by the folder that is its own; a member says all that raises NotImplementedError here.

    Attributes:
        package: Debian's, which has it.
        needs: programs that must be found.
        n_requests_a_connection: after so many requests the client connects anew; 0 for never.
        monitor: of gpuscan, that suits it.
        ends_by: the signal that it ends by in order.
    """

    package: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    n_requests_a_connection: ClassVar[int] = 0
    monitor: ClassVar[str] = "auto"
    ends_by: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls) -> None:
        """Make what it needs beside its package; on the host, for the guest cannot."""

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot be run here, or None."""
        absent = [name for name in cls.needs if shutil.which(name) is None]
        return f"{', '.join(absent)} of Debian's package {cls.package} is not installed" if absent else None

    @staticmethod
    def shares() -> list[float]:
        """Return how often each record is drawn to be read, a share."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what it finds in its folder when it starts."""

    def command(self) -> list[str]:
        """Return what starts it."""
        raise NotImplementedError

    def connect(self) -> Conversation:
        """Connect to it; OSError while it does not listen yet."""
        raise NotImplementedError

    def fill(self, conversation: Conversation) -> None:
        """Have it hold all records, version 0, in ascending order."""
        raise NotImplementedError

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """Return the request for records, in ascending order, and the answer if they have that version."""
        raise NotImplementedError

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """Return the request that writes records over, and its answer."""
        raise NotImplementedError

    def holder(self, conversation: Conversation, pid: int) -> int:
        """Return a process in whose page tables all records are, of the one that was started and others."""
        return pid

    def disturb(self, conversation: Conversation) -> None:
        """Have it do what it does now and then, beside answering."""

    def check(self, conversation: Conversation, n_writes: int) -> None:
        """Have it verify what it holds after so many writes, in its own ways."""

    def check_files(self) -> None:
        """Verify what it has left in its folder when it has ended."""


class SocketStore(RealProgram):
    """A store of keys that answers on a Unix socket and is filled by writes; the newest are read most."""

    @staticmethod
    def shares() -> list[float]:
        """As of a program."""
        return records.latest()

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self.folder / "socket"

    def connect(self) -> Stream:
        """As of a program."""
        return over_socket(self.socket_path)

    def fill(self, conversation: Conversation) -> None:
        """As of a program."""
        for first in range(0, records.N_RECORDS, records.N_WRITTEN_AT_ONCE):
            conversation.ask(*self.write(range(first, first + records.N_WRITTEN_AT_ONCE), 0))


class PipedProgram(RealProgram):
    """A program that answers on its standard output what it is asked on its standard input: two FIFOs.

    Whoever starts it stays connected, for it ends with the last one.
    """

    def prepare(self) -> None:
        """Make the FIFOs."""
        for name in ("asked", "answered"):
            os.mkfifo(self.folder / name)

    def command(self) -> list[str]:
        """As of a program."""
        piped = 'folder="$1"; shift; exec "$@" <"$folder/asked" >"$folder/answered"'
        return ["sh", "-c", piped, "sh", str(self.folder), *self.piped_command()]

    def piped_command(self) -> list[str]:
        """Return what starts it, its input and output aside."""
        raise NotImplementedError

    def connect(self) -> Stream:
        """As of a program."""
        # Not to wait for one who reads it: nobody does where the program has ended.
        asked = os.open(self.folder / "asked", os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(asked, True)
        return Stream((self.folder / "answered").open("rb", 1 << 18), os.fdopen(asked, "wb"))


def spell(numbers: Iterable[int], between: str = ",") -> str:
    """Return numbers as a list of a language."""
    return between.join(map(str, numbers))


def run(command: list[str], **options: object) -> None:
    """Run a command to its end; AssertionError with all it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"


def read_all(program: RealProgram, conversation: Conversation, n_writes: int) -> None:
    """Ask for every record and compare all bytes, after so many writes; :class:`WrongAnswer`."""
    for first in range(0, records.N_READ, records.N_AT_ONCE):
        conversation.ask(*program.read(range(first, first + records.N_AT_ONCE)))
    for number, version in records.versions(n_writes).items():
        conversation.ask(*program.read([number], version))
