"""Workers over ranges of seeds, watched: a signal, a hang or a traceback names the seed that made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.worker import COMPILES, PROGRESS

HANG_S = 20.0
_TESTS = Path(__file__).parents[1]
_MEMORY = Path("/dev/shm")
_START_S = 600.0
"""Until the first input, for which a worker makes its good files, and of each compilation (25 s for the
scanner of text)."""


@dataclass
class Job:
    """A range of seeds of some targets.

    Attributes:
        targets: names in ``targets.TARGETS``, one after the other.
        first, n: seeds of each.
        failure: what an input ended in that none may, empty without one.
    """

    targets: tuple[str, ...]
    first: int
    n: int
    failure: str = field(default="", init=False)

    def run(self) -> None:
        """Try all of them in a process of their own."""
        within = _MEMORY if _MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="gpuscan-fuzz-", dir=within) as made:
            directory = Path(made)
            with (directory / "said").open("wb") as said:
                child = subprocess.Popen(
                    self.command(directory), cwd=_TESTS, env=_environment(), stdout=said, stderr=said
                )
                try:
                    hung_s = _watch(child, directory / PROGRESS)
                finally:
                    child.kill()
                    child.wait()
            if child.returncode or hung_s:
                which = _tried(directory / PROGRESS) or "no input"
                how = f"hung for {hung_s} s" if hung_s else _ended(child.returncode)
                again = "cd tests; PYTHONPATH=. python -P -m fuzz.worker EMPTY-DIRECTORY SEED 1 TARGET"
                text = (directory / "said").read_text(errors="replace")[-4000:]
                self.failure = f"{which} {how} (replay: {again})\n{text}"

    def command(self, directory: Path) -> list[str]:
        """Return what runs the worker."""
        numbers = [str(directory), str(self.first), str(self.n)]
        return [sys.executable, "-P", "-m", "fuzz.worker", *numbers, *self.targets]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_TESTS), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def _watch(child: subprocess.Popen[bytes], progress: Path) -> float:
    """Wait for a worker; return the limit that an input, or making the good files, has hit, or 0."""
    tried, since = "", time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        now = _tried(progress)
        if now != tried:
            tried, since = now, time.monotonic()
        elif time.monotonic() - since > (limit_s := _limit_s(tried)):
            return limit_s
    return 0.0


def _limit_s(tried: str) -> float:
    return HANG_S if " seed " in tried and not tried.endswith(COMPILES) else _START_S


def _tried(progress: Path) -> str:
    """Return which input is being tried, empty before the first."""
    try:
        return progress.read_bytes().rstrip(b"\0").decode()
    except FileNotFoundError:
        return ""


def _ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended in a traceback"
