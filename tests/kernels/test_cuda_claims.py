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
    take(record_t* records, record_t* earlier, const i64* flats, const u8* looks_late, const u8* may_take,
         u32* seen) {
  Store store;
  const u32 lane = threadIdx.x;
  store.records = looks_late[lane] ? records : earlier;
  const u32 around = load_around(store, flats[lane]);
  store.records = records;
  seen[lane] = record_in(take_records(store, flats[lane], around, may_take[lane] != 0), flats[lane]);
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


def check(
    kernel: EmulatedKernel, format_name: str, seed: int, n_lanes: int, stale: float, late: float
) -> None:
    """Take records of ascending pages, some of which changed after, or between, the looks at them."""
    fmt, rng = FORMATS[format_name], np.random.default_rng(seed)
    most = np.iinfo(fmt.dtype).max
    earlier = rng.integers(0, most, N_PAGES, dtype=fmt.dtype, endpoint=True)
    is_stale = rng.random(N_PAGES) < stale
    records = np.where(is_stale, rng.integers(0, most, N_PAGES, dtype=fmt.dtype, endpoint=True), earlier)
    flats = np.full(32, 8, dtype=np.int64)  # lanes behind the last candidate have the stretch's first page
    flats[:n_lanes] = np.sort(rng.choice(np.arange(8, N_PAGES), n_lanes, replace=False))
    looks_late = (rng.random(32) < late).astype(np.uint8)
    looked = np.where(looks_late == 1, records[flats], earlier[flats])
    may_take = (np.arange(32) < n_lanes) & (rng.random(32) < 0.8) & (looked & fmt.ready.mask != 0)
    before, seen = records.copy(), np.zeros(32, dtype=np.uint32)
    kernel((1,), (32,), (records, earlier, flats, looks_late, may_take.astype(np.uint8), seen))
    asked = flats[may_take]
    is_taken = seen[may_take] == looked[may_take]
    np.testing.assert_array_equal(before[asked][is_taken], looked[may_take][is_taken])
    if late in (0, 1):  # who looked at the same moment sees what it exchanges with
        np.testing.assert_array_equal(seen[may_take], before[asked])
    else:  # or what the first to look at that word saw
        assert np.all((seen[may_take] == before[asked]) | (seen[may_take] == earlier[asked]))
    after = before.copy()
    after[asked[is_taken]] = 0
    np.testing.assert_array_equal(records, after)


@pytest.mark.parametrize("format_name", [pytest.param("rfc", marks=pytest.mark.slow), "pghot-compact"])
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_records_are_taken_that_are_what_was_seen(
    format_name: str, seed: int, n_lanes: int, stale: float, late: float
) -> None:
    check(taker(format_name), format_name, seed, n_lanes, stale, late)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("step < 4; step <<= 1) {\n    const u32 next =", "step < 2; step <<= 1) {\n    const u32 next ="),
        ("differs ? wanted & ~bytes_set(differs) : wanted;", "wanted;"),
        ("  word |= word >> 4;\n", ""),
        ("from_here >> step & 1u", "true"),
    ],
)
def test_a_planted_bug_is_found(line: str, instead: str) -> None:
    broken = taker("pghot-compact", line, instead)

    def checks() -> None:
        for seed in range(200):
            check(broken, "pghot-compact", seed, 32, 0.3, 0.0)

    with pytest.raises(AssertionError):
        checks()
