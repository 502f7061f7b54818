"""Runs one launch of a sanitised build in a process of its own and brings the arrays back.

A sanitizer must be loaded before everything else in its process, which a Python
interpreter cannot offer to a module; so these builds are programs (runner.h says
what they read).
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT_S = 120
_SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@dataclass(slots=True)
class Memory:
    """Bytes of this process that one or several overlapping arrays cover: one buffer of the launch."""

    start: int
    end: int


Done = subprocess.CompletedProcess[str]


def run(arguments: Sequence[str], program: Path, directory: str | None = None) -> Done:
    """Run a sanitised program to its end."""

    def once(*prefix: str) -> Done:
        return subprocess.run(
            [*prefix, str(program), *arguments],
            env={**os.environ, **_SANITIZER_OPTIONS},
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    done = once()
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        # TSan of GCC < 14 knows 28 bits of address randomisation at most; Linux 6.x distributions set 32.
        done = once("setarch", platform.machine(), "-R")
    return done


def launch(
    program: Path,
    name: str,
    dims: Sequence[int],
    args: Sequence[Any],
    order: NDArray[np.uint64],
    seed: int,
    n_resident: int,
) -> str | None:
    """Run one launch; return None, or the report of what went wrong, with the arrays untouched."""
    memories = _memories([arg for arg in args if isinstance(arg, np.ndarray)])
    with tempfile.TemporaryDirectory(prefix="gpuscan-emulator-") as directory:
        contents = [order.tobytes(), *(ctypes.string_at(m.start, m.end - m.start) for m in memories)]
        lines = [f"{name} {seed} {n_resident}", " ".join(map(str, dims)), str(len(contents))]
        for number, content in enumerate(contents):
            Path(directory, f"buffer{number}").write_bytes(content)
            lines.append(f"{len(content)} buffer{number}")
        lines.append(str(len(args)))
        lines.extend(_argument(arg, memories) for arg in args)
        Path(directory, "launch").write_text("\n".join(lines) + "\n")
        try:
            done = run(["launch"], program, directory)
        except subprocess.TimeoutExpired:
            return f"{name} did not end within {TIMEOUT_S} s; does a thread wait for one that cannot run?"
        if done.returncode:
            return done.stderr or f"{name} ended with status {done.returncode}"
        for number, memory in enumerate(memories, 1):
            content = Path(directory, f"buffer{number}").read_bytes()
            ctypes.memmove(memory.start, content, len(content))
    return None


def _memories(arrays: Sequence[NDArray[Any]]) -> list[Memory]:
    memories: list[Memory] = []
    for start, end in sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays):
        if memories and start < memories[-1].end:
            memories[-1].end = max(memories[-1].end, end)
        elif not memories or (start, end) != (memories[-1].start, memories[-1].end):
            memories.append(Memory(start, end))
    return memories


def _argument(arg: Any, memories: Sequence[Memory]) -> str:
    if not isinstance(arg, np.ndarray):
        return f"n {int.from_bytes(arg.tobytes(), 'little')}"
    start, end = arg.ctypes.data, arg.ctypes.data + arg.nbytes
    for number, memory in enumerate(memories, 1):
        if memory.start <= start and end <= memory.end and (arg.nbytes or memory.start == memory.end):
            return f"p {number} {start - memory.start}"
    raise AssertionError("every array is in a memory")
