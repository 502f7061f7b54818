"""The library that lets calls fail: compiled here, preloaded into a server, armed in its children."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "interpose.c"


def need_compiler() -> None:
    """Skip the calling test where there is no C compiler; fail it where the variable CI is true."""
    if shutil.which("gcc") is not None:
        return
    reason = "gcc is not installed, which compiles what lets system calls fail"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"faults must be injected in CI, but {reason}")
    pytest.skip(reason)


def compiled(directory: Path) -> Path:
    """Compile the library into a directory."""
    library = directory / "interpose.so"
    flags = ("-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared")
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


class Faults:
    """The preloaded library, in the process that it is preloaded into."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_calls.restype = ctypes.c_void_p

    def arm(self, directory: Path, at: int, with_errno: int, *, stays: bool = False) -> None:
        """Count calls below a directory from now on.

        Args:
            directory: absolute.
            at: number of the call that fails, from 1; 0: none does.
            with_errno: how; -1: the process is killed before the call.
            stays: whether every later call that takes room fails too.
        """
        self._library.faults_arm(os.fsencode(directory), at, with_errno, int(stays))

    def disarm(self) -> str:
        """Count no more; return what every call was, a letter each."""
        self._library.faults_disarm()
        return ctypes.string_at(self._library.faults_calls(), self._library.faults_count()).decode()
