"""How a warp takes its records on the emulator: each by what it was seen to be, those of one word at once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulated import of_files
from emulator.loader import EmulatedKernel, EmulatedModule
from emulator.presence import need
from gpuscan.kernels.cuda.source import kernel_source
from gpuscan.records.formats import FORMATS

N_PAGES = 96
_TAKE = """
extern "C" __global__ void
    take(record_t* records, const i64* flats, const u32* words, const u8* may_take, u32* seen) {
  Store store;
  store.records = records;
  const u32 lane = threadIdx.x;
  seen[lane] = take_records(store, flats[lane], words[lane], may_take[lane] != 0);
}
"""


@cache
def taker(format_name: str, line: str = "", instead: str = "") -> EmulatedKernel:
    """Return a kernel of one warp, with one line changed."""
    need("fast")
    source = of_files(kernel_source(FORMATS[format_name], exclusive=False), set())
    if line:
        assert source.count(line) == 1
        source = source.replace(line, instead)
    return EmulatedModule(source + _TAKE, (), "fast", seed=5).get_function("take")


def check(kernel: EmulatedKernel, format_name: str, seed: int, n_lanes: int, stale: float) -> None:
    """Take records of ascending pages, some of which are no longer what they were seen to be."""
    fmt, rng = FORMATS[format_name], np.random.default_rng(seed)
    ready = fmt.dtype.type(fmt.ready.mask)
    most = np.iinfo(fmt.dtype).max
    records = rng.integers(0, most, N_PAGES, dtype=fmt.dtype, endpoint=True)
    flats = np.full(32, 8, dtype=np.int64)  # lanes behind the last candidate have the stretch's first page
    flats[:n_lanes] = np.sort(rng.choice(np.arange(8, N_PAGES), n_lanes, replace=False))
    words = records[flats] | ready
    is_stale = rng.random(32) < stale
    words[is_stale] = rng.integers(0, most, int(is_stale.sum()), dtype=fmt.dtype, endpoint=True) | ready
    may_take = ((np.arange(32) < n_lanes) & (rng.random(32) < 0.8)).astype(np.uint8)
    before, seen = records.copy(), np.zeros(32, dtype=np.uint32)
    kernel((1,), (32,), (records, flats, words.astype(np.uint32), may_take, seen))
    asked = np.flatnonzero(may_take)
    np.testing.assert_array_equal(seen[asked], before[flats[asked]])
    gone = flats[asked][before[flats[asked]] == words[asked]]
    before[gone] = 0
    np.testing.assert_array_equal(records, before)


@pytest.mark.parametrize("format_name", [pytest.param("rfc", marks=pytest.mark.slow), "pghot-compact"])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 32), st.sampled_from([0.0, 0.3, 1.0]))
def test_records_are_taken_that_are_what_was_seen(
    format_name: str, seed: int, n_lanes: int, stale: float
) -> None:
    check(taker(format_name), format_name, seed, n_lanes, stale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("step < 4; step <<= 1) {\n    const u32 next =", "step < 2; step <<= 1) {\n    const u32 next ="),
        ("wanted & ~bytes_set((seen ^ expected) & wanted);", "wanted;"),
        ("  word |= word >> 4;\n", ""),
        ("peers >> (lane_id() + step) & 1u", "true"),
    ],
)
def test_a_planted_bug_is_found(line: str, instead: str) -> None:
    broken = taker("pghot-compact", line, instead)

    def checks() -> None:
        for seed in range(200):
            check(broken, "pghot-compact", seed, 32, 0.3)

    with pytest.raises(AssertionError):
        checks()
