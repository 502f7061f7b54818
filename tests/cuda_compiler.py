"""NVRTC and cuobjdump from the wheels of the ``test-cuda`` extra: compile for any architecture without a GPU.

``python tests/cuda_compiler.py`` prints the table of docs/notes/cuda-machine-code.md.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from gpuscan.base.installing import install_command
from gpuscan.kernels.cuda.source import kernel_source
from gpuscan.records.formats import FORMATS

ARCHITECTURES = (75, 80, 90, 100, 120)
"""Turing, Ampere, Hopper, Blackwell in data centres and elsewhere."""

_WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm")
_FUNCTION = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")

_MEMORY = {
    r"MEMBAR\.SC\.GPU": "fence",
    r"ATOMG?\.E\.CAS\.STRONG\.GPU": "exchange record",
    r"(ATOMG?|RED)\.E\.OR\.64": "set bit",
    r"(ATOMG?|RED)\.E\.OR\.STRONG": "set flag",
    r"ATOMG\.E\.AND\.64": "take blocks",
    r"ATOMG\.E\.EXCH\.64": "take bits",
    r"STG\.E\.128\.STRONG\.GPU": "clear bits",
    r"LDG\.E(\.\w+)?\.STRONG\.GPU": "look",
}
"""Machine instructions on what other threads see. Counters (ADD) and a kernel's own arrays are left out."""
MARK = ["exchange record", "fence", "look", "set bit", "fence", "look", "set bit"]
"""How a page is marked: the record, then its index bits, each after a fence."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes: registers and bytes of stack and local memory a thread, shared bytes a block."""

    registers: int
    stack: int
    shared: int
    local: int


def missing() -> str | None:
    """Return why nothing can be compiled here, or None."""
    for wheel in _WHEELS:
        try:
            metadata.distribution(wheel)
        except metadata.PackageNotFoundError:
            return f"the wheel {wheel} is not installed: {install_command('test-cuda', wheel)}"
    return None


@cache
def compiled(format_name: str, exclusive: bool, architecture: int) -> Path:
    """Return a cubin of all kernels; it lives as long as the process.

    Raises:
        AssertionError: it does not compile; the message is NVRTC's.
    """
    source = kernel_source(FORMATS[format_name], exclusive=exclusive)
    return cubin_of(source, f"{format_name}-{exclusive}", architecture)


def cubin_of(source: str, name: str, architecture: int) -> Path:
    """Return a cubin of any source; raises as :func:`compiled`."""
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    options = (b"--std=c++17", f"--gpu-architecture=sm_{architecture}".encode())
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"gpuscan.cu", 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    path = Path(_folder().name) / f"{name}-{architecture}.cubin"
    path.write_bytes(cubin.raw)
    return path


def usage(cubin: Path) -> dict[str, Usage]:
    """Return what every kernel of a cubin takes, by name."""
    listing = _cuobjdump("--dump-resource-usage", str(cubin))
    return {name: Usage(*map(int, numbers)) for name, *numbers in _FUNCTION.findall(listing)}


def instructions(cubin: Path, kernel: str) -> list[str]:
    """Return the machine instructions of a kernel, without addresses and encodings."""
    return re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(.*?)\s*;", listing(cubin, kernel))


def listing(cubin: Path, kernel: str) -> str:
    """Return the machine code of a kernel as cuobjdump prints it."""
    return _cuobjdump("-sass", "-fun", kernel, str(cubin))


def memory_steps(cubin: Path, kernel: str) -> list[str]:
    """Return what a kernel does to what other threads see, in the order of its code, repetitions once."""
    steps: list[str] = []
    for line in instructions(cubin, kernel):
        step = next((step for pattern, step in _MEMORY.items() if re.search(pattern, line)), None)
        if step is not None and steps[-1:] != [step]:
            steps.append(step)
    return steps


def table() -> str:
    """Return registers per thread and shared memory per block, kernel by architecture, in Markdown."""
    by_architecture = [usage(compiled("rfc", False, each)) for each in ARCHITECTURES]
    lines = [
        "| kernel | " + " | ".join(f"sm_{each}" for each in ARCHITECTURES) + " | shared bytes |",
        "|---|" + "---:|" * (len(ARCHITECTURES) + 1),
    ]
    for kernel in sorted(by_architecture[0]):
        registers = " | ".join(str(each[kernel].registers) for each in by_architecture)
        shared = max(each[kernel].shared for each in by_architecture)
        lines.append(f"| `{kernel}` | {registers} | {shared:,} |")
    return "\n".join(lines)


def _cuobjdump(*args: str) -> str:
    command = [str(_wheel_file("nvidia-cuda-cuobjdump", "bin/cuobjdump")), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@cache
def _nvrtc() -> ctypes.CDLL:
    # NVRTC looks for its builtins by name only, so they are loaded before they are asked for.
    ctypes.CDLL(str(_wheel_file("nvidia-cuda-nvrtc", "libnvrtc-builtins.so.")), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(_wheel_file("nvidia-cuda-nvrtc", "libnvrtc.so.")))


def _wheel_file(wheel: str, name: str) -> Path:
    (found,) = (file for file in metadata.files(wheel) or () if name in str(file))
    return Path(str(found.locate()))


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpuscan-cubin-")


if __name__ == "__main__":
    print(table())  # noqa: T201 - what the script is for
