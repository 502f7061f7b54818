"""The process that tries inputs, and may die of one: ``python -m fuzz.worker TARGET FIRST N DIRECTORY``.

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
from pathlib import Path

from gpuscan.errors import GpuscanError

MEMORY_BYTES = 2 << 30
PROGRESS = "seed"


def attempts(name: str, first: int, n: int, directory: Path) -> None:
    """Try seeds [first, first + n) on a target.

    Raises:
        Whatever an input should not end in.
    """
    from fuzz.targets import TARGETS

    target = TARGETS[name](directory)
    with (directory / PROGRESS).open("w+b") as file:
        file.write(bytes(8))
        file.flush()
        seen = mmap.mmap(file.fileno(), 8)
    _bound_memory()
    refused = 0
    for seed in range(first, first + n):
        seen[:] = (seed + 1).to_bytes(8, "little")
        try:
            target.attempt(random.Random(f"{name} {seed}"))
        except GpuscanError as error:
            refused += 1
            if "\n" in str(error):
                raise AssertionError(f"a message of several lines: {error!r}") from error
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if used > MEMORY_BYTES:
        raise AssertionError(f"{used:,} bytes of memory were used")
    sys.stdout.write(f"refused {refused} of {n}\n")


def _bound_memory() -> None:
    """Let an allocation of 2 GiB beyond what the readers are made of fail."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            limit = int(line.split()[1]) * 1024 + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # NumPy's of numbers that overflow say nothing of the reader
    try:
        attempts(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
