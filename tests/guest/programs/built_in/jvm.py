"""A JVM with a hash map of byte arrays, which its collector leaves where they are once they are old."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import records
from ..contract import Conversation, PipedProgram, run, spell

_SOURCE = Path(__file__).parent / "Records.java"
_CLASSES = Path(__file__).parents[4] / "build" / "programs"
_JAVA = 11
"""The oldest that shall run it."""


class Program(PipedProgram):
    """All records as values of the map."""

    package = "openjdk-17-jre-headless"
    needs = ("java",)

    @classmethod
    def make(cls) -> None:
        """Compile the class, where there is a compiler."""
        compiler = shutil.which("javac")
        if compiler and not _is_made():
            _CLASSES.mkdir(parents=True, exist_ok=True)
            run([compiler, "--release", str(_JAVA), "-d", str(_CLASSES), str(_SOURCE)])

    @classmethod
    def missing(cls) -> str | None:
        """As of a program."""
        return super().missing() or (
            None if _is_made() else f"{_SOURCE.name} is not compiled: javac is not installed, or never ran"
        )

    @staticmethod
    def shares() -> list[float]:
        """As of a program."""
        return records.latest()

    def piped_command(self) -> list[str]:
        """As of a program."""
        # The quick compiler alone: where the CPU is emulated the other one does not end before the test.
        options = [
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xms96m",
            "-Xmx96m",
            "-Xmn16m",
            "-Xshare:auto",
            f"-Xlog:gc:file={self.folder}/collections",
        ]
        numbers = [records.N_RECORDS, records.N_FILLERS, *records.FACTORS]
        return ["java", *options, "-cp", str(_CLASSES), "Records", *map(str, numbers)]

    def fill(self, conversation: Conversation) -> None:
        """It has filled itself when it answers."""
        self.check(conversation, 0)

    def read(self, numbers: Sequence[int], version: int = 0) -> tuple[bytes, bytes]:
        """As of a program."""
        return f"read {spell(numbers, ' ')}\n".encode(), records.lines(numbers, version)

    def write(self, numbers: Sequence[int], version: int) -> tuple[bytes, bytes]:
        """As of a program."""
        return f"write {version} {spell(numbers, ' ')}\n".encode(), b"done\n"

    def check(self, conversation: Conversation, n_writes: int) -> None:
        """Its own sum of all bytes is right."""
        sums = (sum(records.body(number)) for number in range(records.N_READ))
        written = (sum(records.body(*each)) for each in records.versions(n_writes).items())
        conversation.ask(b"sum\n", b"%d\n" % (sum(sums) + sum(written)))


def _is_made() -> bool:
    made = _CLASSES / "Records.class"
    return made.exists() and made.stat().st_mtime >= _SOURCE.stat().st_mtime
