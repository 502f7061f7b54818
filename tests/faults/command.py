"""What a command is to those who let its system calls fail, and how its result is judged."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.errors import GpuscanError
from gpuscan.cli.main import main

RUN = ("run", "--memory", "512MiB", "--ticks", "2", "--threads", "1", "--device", "cpu", "-q")
"""A run that takes little."""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: of it.
        prepare: makes what it finds in a directory.
        run: does it there; returns its exit code.
        again: does it once more, as a user would.
        wrong: says what is wrong with the result: must be ``whole``, ``earlier`` (as prepared), ``either``.
        results: names that may be in the directory at the end.
        inside: names what is left where it should not be, deeper in the directory.
        below: the part of the directory whose calls count.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], int]
    again: Callable[[Path], int]
    wrong: Callable[[Path, str], str]
    results: tuple[str, ...]
    inside: Callable[[Path], list[str]] = lambda _: []
    below: str = ""

    def root(self, directory: Path) -> Path:
        """Return where calls count."""
        return directory / self.below if self.below else directory

    def left(self, directory: Path) -> list[str]:
        """Return what is there and should not be."""
        return sorted({entry.name for entry in directory.iterdir()} - set(self.results)) + self.inside(
            directory
        )


def quietly(*arguments: str | Path) -> int:
    """Run the command line with its results thrown away."""
    with redirect_stdout(io.StringIO()):
        return main([str(argument) for argument in arguments])


def nothing(directory: Path) -> None:
    """Find nothing."""


def room_for_temporary_files(directory: Path) -> None:
    """Find a directory for temporary files."""
    (directory / "tmp").mkdir()


def contents(path: Path) -> dict[str, bytes]:
    """Return the files below a path."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def whole_or_earlier(
    name: str, is_whole: Callable[[Path], str], has_earlier: bool
) -> Callable[[Path, str], str]:
    """Return a check of a result ``name``; an earlier one is told by a file ``EARLIER`` beside it."""

    def wrong(directory: Path, state: str) -> str:
        path = directory / name
        as_before = not path.exists()
        if has_earlier:
            earlier = directory / "EARLIER"
            if not path.exists():
                return "the earlier result is gone"
            as_before = (
                (contents(path) == contents(earlier))
                if path.is_dir()
                else (path.read_bytes() == earlier.read_bytes())
            )
        if state == "earlier":
            return "" if as_before else "a failed command changed what was there"
        if state == "whole" and as_before and not has_earlier:
            return "there is no result"
        if as_before and state == "either":
            return ""
        return is_whole(path)

    return wrong


def earlier(make: Callable[[Path], int], name: str) -> Callable[[Path], None]:
    """Return a preparation that makes a result and notes what it is."""

    def prepare(directory: Path) -> None:
        assert make(directory) == 0
        path = directory / name
        if path.is_dir():
            shutil.copytree(path, directory / "EARLIER")
        else:
            shutil.copy(path, directory / "EARLIER")

    return prepare


def as_command(task: Callable[[], None]) -> int:
    """Do something that no command does alone; errors become exit codes as the command line makes them."""
    try:
        task()
    except (GpuscanError, OSError) as error:
        os.write(2, f"gpuscan: error: {error}\n".encode())
        return getattr(error, "exit_code", 1)
    return 0
