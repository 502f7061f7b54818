"""Compiles CUDA sources with g++ behind the emulator's header, and launches their kernels on NumPy arrays.

The calling convention is that of ``cupy.RawModule``; docs/emulator.md says what the emulator shows.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emulator import child

Build = Literal["fast", "asan", "tsan", "explored"]

HEADERS = Path(__file__).parent
_COMMON = ("-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function")
_SANITIZED = ("-DEMULATOR_RUNNER", "-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
_FLAGS: dict[Build, tuple[str, ...]] = {
    "fast": ("-O2", "-fPIC", "-shared"),
    "asan": (*_SANITIZED, "-fsanitize=address,undefined"),
    "tsan": (*_SANITIZED, "-fsanitize=thread"),
    # Accesses call TSan's runtime, whose place explorer.cpp takes.
    "explored": (
        *("-O2", "-g", "-fPIC", "-shared", "-DEMULATOR_EXPLORES", "-fsanitize=thread", "-nodefaultlibs"),
        *("--param", "tsan-instrument-func-entry-exit=0"),
        # Each access has its line.
        *("-fno-crossjumping", "-fno-tree-tail-merge", "-fno-code-hoisting", "-fno-optimize-sibling-calls"),
    ),
}
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\(.*?\)\s*)?(\w+)\s*\(")
_FOR_THE_DEVICE = ("-arch", "--gpu-arch", "-lineinfo", "--generate-line", "-maxrreg", "--maxrreg")


class EmulatorError(Exception):
    """A source that does not compile, or a launch that went wrong: who, where, and the sanitizer's report."""


def cache_dir() -> Path:
    """Return where compiled sources are kept, made if it is not there."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "gpuscan-emulator"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError:
        return _session_cache()


@cache
def _session_cache() -> Path:
    return Path(tempfile.mkdtemp(prefix="gpuscan-emulator-"))


@cache
def _compiler_version() -> str:
    return subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout


@cache
def unavailable(build: Build) -> str | None:
    """Return why ``build`` cannot be made or run on this machine, None when it can."""
    if shutil.which("g++") is None:
        return "g++ is not installed, which runs the CUDA kernels where there is no GPU"
    if build == "fast":
        return None
    if build == "explored":
        return (
            None
            if shutil.which("addr2line")
            else "addr2line is not installed, which names the lines of steps"
        )
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "program")
        command = ["g++", *_FLAGS[build], "-x", "c++", "-", "-o", str(program)]
        made = subprocess.run(command, input="int main() {}", capture_output=True, text=True, check=False)
        if made.returncode:
            return f"g++ cannot link its {build} runtime: {made.stderr.strip()}"
        ran = child.run([], program)
        return f"programs of the {build} build do not start: {ran.stderr.strip()}" if ran.returncode else None


def _host_option(option: str) -> list[str]:
    """Translate one NVRTC option."""
    if option.startswith(_FOR_THE_DEVICE):
        return []
    if option.startswith(("-D", "-U", "-I", "-std=")):
        return [option]
    if option.startswith("--std="):
        return [option[1:]]
    raise EmulatorError(f"the emulator does not know the compiler option {option}; use -D, -U, -I or -std")


def compiled(
    source: str, options: Sequence[str], build: Build, name: str, libraries: Sequence[Path] = ()
) -> Path:
    """Compile kernels, linked with ``libraries``, if that was not done before; return the binary.

    Raises:
        EmulatorError: they do not compile; the message is the compiler's.
    """
    kernels = _KERNEL.findall(_COMMENT.sub("", source))
    if not kernels:
        raise EmulatorError(f'{name} defines no kernel; write extern "C" __global__ void NAME(...)')
    entries = " ".join(f"ENTRY({kernel})" for kernel in kernels)
    # Internal linkage: ASan puts no red zones around static arrays that the linker could merge (templates').
    text = (
        f'#include "cuda_emulator.h"\nnamespace {{\n#line 1 "{name}"\n{source}\n}}\n'
        f'#line 1 "launch"\n#define EMULATOR_KERNELS(ENTRY) {entries}\n#include "launch.h"\n'
    )
    flags = [*_FLAGS[build], *(flag for option in options for flag in _host_option(option))]
    return compiled_text(text, flags, build, name, libraries)


def compiled_text(
    text: str, flags: Sequence[str], suffix: str, name: str, libraries: Sequence[Path] = ()
) -> Path:
    """Compile C++ that may include the emulator's headers, as :func:`compiled` does."""
    flags = [*_COMMON, *flags]
    linked = [str(library) for library in libraries]
    digest = hashlib.sha256(repr((text, flags, linked, _compiler_version())).encode())
    for header in sorted(HEADERS.glob("*.h")):
        digest.update(header.read_bytes())
    binary = cache_dir() / f"{digest.hexdigest()[:24]}.{suffix}"
    if binary.exists():
        return binary
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        made = Path(scratch, "binary")
        command = ["g++", *flags, "-I", str(HEADERS), "-x", "c++", "-", "-o", str(made), "-pthread"]
        if linked:
            command += ["-x", "none", *linked]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EmulatorError(f"{name} does not compile with g++:\n{done.stderr}")
        made.replace(binary)  # atomic: another process may be compiling the same
    return binary


def _triple(dims: Sequence[int], what: str) -> tuple[int, int, int]:
    x, y, z = (*dims, *(1,) * (3 - len(dims)))
    if min(x, y, z) < 1:
        raise EmulatorError(f"the {what} {tuple(dims)} has a side below 1")
    return int(x), int(y), int(z)


def checked_launch(
    name: str, grid: Sequence[int], block: Sequence[int], parameters: Sequence[str], args: Sequence[Any]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return grid and block as three numbers each.

    Raises:
        EmulatorError: they, or an argument, do not fit.
    """
    grid3, block3 = _triple(grid, "grid"), _triple(block, "block")
    if math.prod(block3) > 1024:
        raise EmulatorError(f"{name}: {math.prod(block3)} threads a block are over 1024")
    if len(args) != len(parameters):
        raise EmulatorError(f"{name} takes {len(parameters)} arguments, not {len(args)}")
    for position, (parameter, arg) in enumerate(zip(parameters, args, strict=True), 1):
        problem = _mismatch(parameter, arg)
        if problem:
            raise EmulatorError(f"argument {position} of {name} {problem}")
    return grid3, block3


def parameters_of(listing: str) -> dict[str, list[str]]:
    """Return the parameters of each kernel of a binary's listing: P or C (pointer), i, u or f, and bytes."""
    return {words[0]: words[1:] for line in listing.splitlines() if (words := line.split())}


def held_arguments(args: Sequence[Any]) -> tuple[Any, list[NDArray[Any]]]:
    """Return C's array of pointers to arguments, and what must be kept as long as it is used."""
    # Numbers are held as arrays of one item, pointers as the address of theirs.
    held = [
        np.array([arg.ctypes.data], dtype=np.uintp) if isinstance(arg, np.ndarray) else np.array([arg])
        for arg in args
    ]
    return (ctypes.c_void_p * len(held))(*(item.ctypes.data for item in held)), held


class EmulatedKernel:
    """One kernel; call it like a ``cupy.RawKernel``."""

    def __init__(self, module: EmulatedModule, name: str, parameters: Sequence[str]) -> None:
        self.module = module
        self.name = name
        self._parameters = parameters

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: None = None,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Run the kernel to its end.

        Args:
            grid, block: up to three numbers each.
            args: C-contiguous NumPy arrays for pointers, NumPy scalars of the parameter's
                kind and size for numbers. Python numbers are refused: CuPy passes them as
                64 bits whatever the kernel expects.
            shared_mem: must be 0, dynamic shared memory is not emulated.
            stream: must be None.
            blocks: linear indexes of the blocks to run, in this order; None = all, in an
                order drawn from the module's seed (0 ascending, 1 descending).

        Raises:
            EmulatorError: an argument does not fit; lanes or threads diverged; a
                sanitizer reported something.
        """
        if shared_mem or stream is not None:
            raise EmulatorError(f"{self.name}: dynamic shared memory and streams are not emulated")
        grid3, block3 = checked_launch(self.name, grid, block, self._parameters, args)
        self.module.launch(self.name, grid3, block3, args, self._order(math.prod(grid3), blocks))

    def _order(self, n_blocks: int, blocks: Sequence[int] | None) -> NDArray[np.uint64]:
        if blocks is not None:
            order = np.asarray(blocks, dtype=np.int64)
            if order.size and not 0 <= order.min() <= order.max() < n_blocks:
                raise EmulatorError(f"{self.name}: blocks must be in [0, {n_blocks})")
            return order.astype(np.uint64)
        ascending = np.arange(n_blocks, dtype=np.uint64)
        if self.module.seed == 0:
            return ascending
        if self.module.seed == 1:
            return ascending[::-1].copy()
        return np.random.default_rng(self.module.seed).permutation(ascending)


def _mismatch(parameter: str, arg: Any) -> str | None:
    kind, n_bytes = parameter[0], int(parameter[1:])
    if isinstance(arg, np.ndarray):
        if kind not in "PC":
            return f"must be a {n_bytes}-byte number, not an array"
        if not arg.flags.c_contiguous:
            return "is not C-contiguous; pass a copy"
        if kind == "P" and not arg.flags.writeable:
            return "is read-only, but the kernel takes a pointer to mutable items"
        return None
    if not isinstance(arg, np.generic):
        return f"must be a NumPy array or scalar, not {type(arg).__name__}"
    if kind in "PC":
        return f"must be an array, not {arg.dtype}"
    given = "u" if arg.dtype.kind == "b" else arg.dtype.kind
    if (given, arg.dtype.itemsize) != (kind, n_bytes):
        names = {"i": "int", "u": "uint", "f": "float"}
        return f"must be {names[kind]}{8 * n_bytes}, not {arg.dtype}"
    return None


class EmulatedModule:
    """A compiled CUDA source, as ``cupy.RawModule`` has it.

    Args:
        source: CUDA C++, kernels as ``extern "C" __global__ void NAME(...)``.
        options: NVRTC options; -D, -U, -I and -std count, those for the device's code generator do not.
        build: ``fast`` runs in this process, ``asan`` (ASan + UBSan) and ``tsan`` in one of their own.
        seed: order of blocks, warps and lanes, and what shared memory holds at first.
        n_resident: blocks that run at once, each on an OS thread (1 to 16). ASan's run one by one.
        name: what to call the source in messages; #line directives in it count.

    Raises:
        EmulatorError: it does not compile; the message is the compiler's.
    """

    def __init__(
        self,
        source: str,
        options: Sequence[str] = (),
        build: Build = "fast",
        seed: int = 0,
        n_resident: int | None = None,
        name: str = "source.cu",
    ) -> None:
        self.build = build
        self.seed = seed
        self.n_resident = n_resident or (16 if build == "tsan" else 1)
        if not 1 <= self.n_resident <= (1 if build == "asan" else 16):
            raise EmulatorError(f"the {build} build cannot run {self.n_resident} blocks at once")
        self._binary = compiled(source, options, build, name)
        if build == "fast":
            self._library = ctypes.CDLL(str(self._binary))
            self._library.emulator_signatures.restype = ctypes.c_char_p
            listing = self._library.emulator_signatures().decode()
        else:
            listing = child.run([], self._binary).stdout
        self._parameters = parameters_of(listing)

    def get_function(self, name: str) -> EmulatedKernel:
        """Return a kernel.

        Raises:
            EmulatorError: there is none of that name.
        """
        if name not in self._parameters:
            raise EmulatorError(f"there is no kernel {name}; there are {', '.join(self._parameters)}")
        return EmulatedKernel(self, name, self._parameters[name])

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Any],
        order: NDArray[np.uint64],
    ) -> None:
        """Run checked arguments; see :meth:`EmulatedKernel.__call__`."""
        dims = (*grid, *block)
        problem = (
            self._launch_here(name, dims, args, order)
            if self.build == "fast"
            else child.launch(self._binary, name, dims, args, order, self.seed, self.n_resident)
        )
        if problem:
            raise EmulatorError(problem)

    def _launch_here(
        self, name: str, dims: Sequence[int], args: Sequence[Any], order: NDArray[np.uint64]
    ) -> str | None:
        pointers, held = held_arguments(args)
        error = ctypes.create_string_buffer(2048)
        failed = self._library.emulator_launch(
            name.encode(),
            (ctypes.c_uint * 6)(*dims),
            pointers,
            ctypes.c_void_p(order.ctypes.data),
            ctypes.c_uint64(order.size),
            ctypes.c_uint64(self.seed),
            ctypes.c_uint(self.n_resident),
            error,
            ctypes.c_size_t(len(error)),
        )
        del held
        return error.value.decode() if failed else None
