"""Where candidates lie does not change how long the slowest warp takes: rounds counted on the emulator.

A model of 8 GiB that are READY in 64 TiB, at 1/128: as many candidates a stretch, and as many blocks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import EmulatedDevice, of_files
from emulator.loader import EmulatedModule
from emulator.presence import need
from gpuscan.kernels.api import Kernels, ScanRequest, StoreArrays
from gpuscan.kernels.cuda import CudaBackend, stretches
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.records.formats import pack
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import bitmap, layout_of

N_STRETCHES = 64
N_CANDIDATES = 256 * N_STRETCHES
N_PAGES = 512 * N_CANDIDATES
LAYOUT = layout_of([Extent(0, N_PAGES, 0, 0)])
ROUNDS = ("claim", "tile", "tile with candidates", "sections", "blocks", "queue", "crowded block", "scatter")
INSTRUCTIONS = dict(zip(ROUNDS, (125, 88, 119, 107, 199, 8, 160, 63), strict=True))
"""Of each on sm_90, as tests/cuda_paths.py reads them from the machine code, the last three by hand."""
_FILES = {"popcounts", "cut_stretches", "scan_dense", "scan_indexed", "scatter"}
_COUNTERS = f"""
static unsigned long long rounds_of_warp[{len(ROUNDS)}][{N_STRETCHES}];
static void count(int round, u32 n) {{
  if (lane_id() == 0) rounds_of_warp[round][stretch_id()] += n;
}}
static u32 longest_of_warp(u32 n) {{
  for (int step = 16; step; step >>= 1) n = max(n, __shfl_xor_sync(GS_ALL_LANES, n, step));
  return n;
}}
extern "C" void* counted() {{ return rounds_of_warp; }}
"""
_AT = {
    "  u32 word = record_in(around, flat);\n  u32 taken": ("claim", "1"),
    "  uint4 wide[GS_LOADS];\n": ("tile", "1"),
    "  const u32 records_of_load = (1u << GS_RECORDS_PER_LOAD) - 1u;\n  /* Counts": (
        "tile with candidates",
        "1",
    ),
    "        n_come_to = 0;\n": ("sections", "1"),
    "      is_last = n_come_to >= n_blocks;\n": ("blocks", "1"),
    "    const bool queues_alone = queues && !is_crowded;\n": (
        "queue",
        "longest_of_warp(queues && !is_crowded ? n_set : 0)",
    ),
    "      const int source = __ffs((int)rest) - 1;\n": ("crowded block", "1"),
    "      const u32 n_before = has_claim ? next[warp][target] : 0;\n": ("scatter", "1"),
}
"""Lines of the sources, and what is counted in front of them."""


class CountingDevice(EmulatedDevice):
    """Kernels that count the rounds of each warp."""

    def compile(self, source: str) -> Callable[[str], Kernel]:
        need(self.build)
        source = of_files(source, _FILES)
        for line, (what, n) in _AT.items():
            if source.count(line) != 1:
                raise ValueError(f"{line!r} stands {source.count(line)} times in the sources, not once")
            source = source.replace(line, f"count({ROUNDS.index(what)}, {n});\n{line}")
        head, mark, rest = source.partition('#line 1 "pages.cuh"')
        self.module = EmulatedModule(head + _COUNTERS + mark + rest, (), self.build, self.seed)
        find: Callable[[str], Kernel] = self.module.get_function
        return find

    def rounds(self) -> NDArray[np.uint64]:
        """Return the counters, uint64[len(ROUNDS), N_STRETCHES], and set them to 0."""
        library = self.module._library
        library.counted.restype = ctypes.c_void_p
        shape = (len(ROUNDS), N_STRETCHES)
        place = (ctypes.c_uint64 * (shape[0] * shape[1])).from_address(library.counted())
        counters = np.ctypeslib.as_array(place).reshape(shape)
        taken: NDArray[np.uint64] = counters.copy()
        counters[:] = 0
        return taken


@pytest.fixture(scope="module")
def opened() -> tuple[CountingDevice, Kernels]:
    device = CountingDevice()
    return device, CudaBackend(device).open(LAYOUT)


def fill(kernels: Kernels, flats: NDArray[np.int64]) -> None:
    """Make pages READY, indexed."""
    ready = np.zeros(N_PAGES, dtype=np.bool_)
    ready[flats] = True
    words = pack(LAYOUT.fmt, ready=ready[flats].astype(np.uint8), nid=flats % 8, freq=0, time=0)
    records = np.zeros(N_PAGES, dtype=LAYOUT.fmt.dtype)
    records[flats] = words
    blocks: NDArray[np.bool_] = np.any(ready.reshape(-1, 512), axis=1)
    given: Any = {"eligible_bits": None, "folio_order": None, "node_active": None}
    kernels.load(StoreArrays(records=records, ready_bits=bitmap(ready), block_bits=bitmap(blocks), **given))


def longest(opened: tuple[CountingDevice, Kernels], path: Any, flats: NDArray[np.int64]) -> float:
    """Return the instructions of the slowest warp of a scan that claims these pages."""
    device, kernels = opened
    fill(kernels, flats)
    device.rounds()
    plan = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES, path))
    np.testing.assert_array_equal(np.sort(plan.flat), flats)
    cost = np.array(list(INSTRUCTIONS.values())) @ device.rounds()
    return float(cost.max())


UNIFORM = 512 * np.arange(N_CANDIDATES, dtype=np.int64) + 77
HOT = {
    "a hot region": np.arange(N_CANDIDATES, dtype=np.int64) + 100 * SECTION_PAGES,
    "a hot region at the end": np.arange(N_PAGES - N_CANDIDATES, N_PAGES, dtype=np.int64),
    "half of it hot": np.union1d(UNIFORM[::2], np.arange(N_CANDIDATES // 2) + 9 * SECTION_PAGES + 200),
    "every fourth page of a region": 4 * np.arange(N_CANDIDATES, dtype=np.int64) + 7 * SECTION_PAGES,
}


@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_the_slowest_warp_takes_what_it_does_where_candidates_are_even(
    opened: tuple[CountingDevice, Kernels], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCHES", N_STRETCHES)
    even = longest(opened, path, UNIFORM)
    ratios = {name: longest(opened, path, flats) / even for name, flats in HOT.items()}
    assert max(ratios.values()) <= 1.3, ratios
