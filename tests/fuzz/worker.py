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

from gpuscan.base.errors import GpuscanError

MEMORY_BYTES = 2 << 30
PROGRESS = "tried"
_PROGRESS_BYTES = 64


def attempts(directory: Path, first: int, n: int, names: Sequence[str]) -> None:
    """Try seeds [first, first + n) on each target.

    Raises:
        Whatever an input should not end in.
    """
    from fuzz.targets import TARGETS, TRACE_TARGETS

    with (directory / PROGRESS).open("w+b") as file:
        file.write(bytes(_PROGRESS_BYTES))
        file.flush()
        seen = mmap.mmap(file.fileno(), _PROGRESS_BYTES)
    for name in names:
        seen[:] = f"{name}".encode().ljust(_PROGRESS_BYTES, b"\0")
        (directory / name).mkdir()
        target = {**TARGETS, **TRACE_TARGETS}[name](directory / name)
        with _memory_bounded():
            for seed in range(first, first + n):
                seen[:] = f"{name} seed {seed}".encode().ljust(_PROGRESS_BYTES, b"\0")
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
