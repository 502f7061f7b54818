"""The process that tries inputs, and may die of one: ``python -m fuzz.worker DIRECTORY FIRST N TARGET...``.

Before each it writes the seed into a file that its parent sees; what does not end in a value or one sentence
is printed with its traceback, and ends the process.
"""

from __future__ import annotations

import mmap
import random
import resource
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba.core import event

from gpuscan.base.errors import GpuscanError

MEMORY_BYTES = 2 << 30
PROGRESS = "tried"
COMPILES = "compiles"
"""Ends what the progress says while the compiler is at work: the first input of a parser waits for it."""
_PROGRESS_BYTES = 64


class Progress(event.Listener):
    """What is being tried, in a file that the parent maps."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.write(bytes(_PROGRESS_BYTES))
            file.flush()
            self._seen = mmap.mmap(file.fileno(), _PROGRESS_BYTES)
        self._text = ""
        self._n_compiling = 0

    def tell(self, text: str) -> None:
        """Say that this is being tried now."""
        self._text = text
        self._write(text)

    def on_start(self, event: event.Event) -> None:
        """Say that a function is being compiled; it may have others compiled on its way."""
        self._n_compiling += 1
        self._write(f"{self._text} {COMPILES}")

    def on_end(self, event: event.Event) -> None:
        """Say again what is tried, once the outermost function is compiled."""
        self._n_compiling -= 1
        if not self._n_compiling:
            self._write(self._text)

    def _write(self, text: str) -> None:
        self._seen[:] = text.encode().ljust(_PROGRESS_BYTES, b"\0")


def attempts(directory: Path, first: int, n: int, names: Sequence[str]) -> None:
    """Try seeds [first, first + n) on each target.

    Raises:
        Whatever an input should not end in.
    """
    from fuzz.targets import TARGETS, TRACE_TARGETS

    progress = Progress(directory / PROGRESS)
    event.register("numba:compile", progress)
    for name in names:
        progress.tell(name)
        (directory / name).mkdir()
        target = {**TARGETS, **TRACE_TARGETS}[name](directory / name)
        with _memory_bounded():
            for seed in range(first, first + n):
                progress.tell(f"{name} seed {seed}")
                _attempt(target, random.Random(f"{name} {seed}"))
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if used > MEMORY_BYTES:
            raise AssertionError(f"{name}: {used:,} bytes of memory were used")


def _attempt(target: Any, rng: random.Random) -> None:
    try:
        target.attempt(rng)
    except GpuscanError as error:
        if "\n" in str(error):
            raise AssertionError(f"a message of several lines: {error!r}") from error


@contextmanager
def _memory_bounded() -> Iterator[None]:
    """Let an allocation of 2 GiB beyond what the readers are made of fail inside the block."""
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # NumPy's of numbers that overflow say nothing of the reader
    try:
        attempts(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
