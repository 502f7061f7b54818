"""What the kernels' machine code takes, as it was counted: registers, shared bytes, instructions by way.

``counts.json`` is written by ``tests/cuda_counts.py`` from what NVRTC compiles, and a test holds it against
that. So the model needs no compiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = "counts.json"
WARPS_PER_BLOCK = 8


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """One kernel.

    Attributes:
        registers: of a thread.
        shared_bytes: of a block, those of the system with them.
        ways: instructions that a warp issues, the shortest way, by what it does.
    """

    registers: int
    shared_bytes: int
    ways: Mapping[str, int]


@cache
def counts_of(format_name: str, architecture: int) -> dict[str, KernelCounts]:
    """Return the kernels of a module by name; claims are atomic."""
    modules = json.loads(Path(__file__).with_name(FILE).read_text(encoding="utf-8"))["modules"]
    return {
        name: KernelCounts(**counted) for name, counted in modules[format_name][str(architecture)].items()
    }
