"""How a warp takes records on the emulator: each by what it was seen to be, those of a word at once; rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emulated import EmulatedDevice, of_files
from emulator.loader import EmulatedKernel, EmulatedModule
from emulator.presence import need
from gpuscan.kernels.api import ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.launches import Launch
from gpuscan.kernels.cuda.source import THREADS, Total, kernel_source
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import FORMATS, pack
from gpuscan.records.page_map import Extent
from stores import Filling, assert_same_store, layout_of, random_store

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


class ChangedDevice(EmulatedDevice):
    """A device that has the kernels of a scan that reads every record only, with one line changed."""

    def __init__(self, line: str = "", instead: str = "") -> None:
        super().__init__(seed=3)
        self.change = line, instead

    def compile(self, source: str) -> Callable[[str], Kernel]:
        source = of_files(source, {"popcounts", "cut_stretches", "scan_dense", "scatter", "count_ready"})
        line, instead = self.change
        assert not line or source.count(line) == 1
        return super().compile(source.replace(line, instead) if line else source)


def scan_crowded(device: EmulatedDevice, format_name: str, exclusive: bool) -> None:
    """Scan stores in which most pages are READY, all, or those of some blocks, as the reference does."""
    layout = layout_of([Extent(0, 33_280, 0, 0), Extent(1 << 20, (1 << 20) + 40_448, 3, 1)], format_name, 8)
    mine, reference = CudaBackend(device, exclusive=exclusive).open(layout), ReferenceBackend().open(layout)
    for filling in (Filling(0.6, unknown_targets=True), Filling(1.0), Filling(0.02, full_blocks=40)):
        arrays = random_store(layout, filling, np.random.default_rng(7))
        plans = []
        for kernels in (mine, reference):
            kernels.load(arrays)
            plans.append(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, "dense")))
        for name in ("offsets", "flat", "words"):
            one, other = (getattr(plan, name) for plan in plans)
            np.testing.assert_array_equal(one, other, err_msg=name)
        assert plans[0].n_unknown_target == plans[1].n_unknown_target
        assert_same_store(mine, reference)


@pytest.mark.parametrize(
    ("format_name", "exclusive"),
    [
        ("rfc", False),
        pytest.param("rfc", True, marks=pytest.mark.slow),
        pytest.param("pghot", False, marks=pytest.mark.slow),
        ("pghot-compact", False),
        pytest.param("pghot-compact", True, marks=pytest.mark.slow),
    ],
)
def test_crowded_tiles_are_claimed_as_others_are(format_name: str, exclusive: bool) -> None:
    need("fast")
    scan_crowded(ChangedDevice(), format_name, exclusive)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["rfc", "pghot-compact"])
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("stage.offsets[place] = offset + row * GS_ROW_PAGES + i;", "stage.offsets[place] = offset + i;"),
        ("row < tile_end; row += GS_ROWS_PAGES", "row < tile_end; row += 2 * GS_ROWS_PAGES"),
        ("in_rows ? n_queued != 0 : is_last || has_some", "is_last || (has_some && !in_rows)"),
    ],
)
def test_a_bug_planted_in_rows_is_found(format_name: str, line: str, instead: str) -> None:
    """Each leaves memory whole: claims at wrong places would be written anywhere."""
    need("fast")
    with pytest.raises(AssertionError):
        scan_crowded(ChangedDevice(line, instead), format_name, exclusive=False)


def scan_without_room(device: EmulatedDevice, format_name: str, n_left: int) -> None:
    """Scan a crowded stretch with room for all but its last READY pages: these stay, and are indexed."""
    fmt, n_targets, n_pages = FORMATS[format_name], 4, 4096
    rng = np.random.default_rng(n_left)
    is_ready = rng.random(n_pages) < 0.9
    before = pack(
        fmt,
        ready=is_ready,
        nid=rng.integers(0, n_targets, n_pages) if fmt.has_nid else 0,
        freq=rng.integers(0, fmt.freq.max + 1, n_pages),
        time=rng.integers(0, fmt.time.max + 1, n_pages),
    )
    ready = np.flatnonzero(is_ready)
    staged, left = ready[:-n_left], ready[-n_left:]

    def index_of(flats: NDArray[np.int64], group_pages: int) -> NDArray[np.uint64]:
        bits = np.zeros(max(64, n_pages // group_pages), dtype=np.bool_)
        bits[flats // group_pages] = True
        return np.packbits(bits, bitorder="little").view(np.uint64)

    given = {
        "records": device.upload(before),
        "ready_bits": device.upload(index_of(ready, 1)),
        "block_bits": device.upload(index_of(ready, 512)),
        "section_nid": device.zeros(1, np.int32),
        "node_mask": device.upload(np.ones(1, dtype=np.uint8)),
        "edges": device.upload(np.array([0, n_pages])),
        "ends": device.upload(np.array([len(staged)])),
        "staged_offsets": device.upload(np.full(n_pages, 1 << 31, dtype=np.uint32)),
        "staged_words": device.zeros(n_pages, fmt.dtype),
        "n_staged": device.zeros(1, np.int64),
        "chunk_places": device.zeros(n_targets, np.int64),
        "row_places": device.zeros(n_targets, np.int64),
        "n_done": device.zeros(2, np.uint32),
        "plan_offsets": device.zeros(n_targets + 1, np.int64),
        "totals": device.zeros(len(Total), np.uint64),
    }
    numbers = {"fixed_target": 0, "n_targets": n_targets, "n_stretches": 1}
    scan_dense = device.compile(kernel_source(fmt, exclusive=False))("scan_dense")
    scan_dense((1,), (THREADS,), Launch("scan_dense", {}).arguments({**given, **numbers}))
    assert given["n_staged"].tolist() == [len(staged)]
    assert given["plan_offsets"][-1] == len(staged)
    assert given["staged_offsets"].tolist() == [*staged.tolist(), *[1 << 31] * (n_pages - len(staged))]
    np.testing.assert_array_equal(given["staged_words"][: len(staged)], before[staged])
    after = before.copy()
    after[staged] = 0
    np.testing.assert_array_equal(given["records"], after)
    np.testing.assert_array_equal(given["ready_bits"], index_of(left, 1))
    np.testing.assert_array_equal(given["block_bits"], index_of(left, 512))


@pytest.mark.parametrize("format_name", ["rfc", "pghot-compact"])
@pytest.mark.parametrize("n_left", [1, 31, 33, 127, 129, 200, 333, 400])
def test_room_that_ends_inside_rows(format_name: str, n_left: int) -> None:
    need("fast")
    scan_without_room(ChangedDevice(), format_name, n_left)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["rfc", "pghot-compact"])
@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("    before += in_row(ranks.all, row);\n", ""),
        ("place++ >= stage.room", "place++ > stage.room"),
        ("        set_index(store, first + row * GS_ROW_PAGES +", "        set_index(store, first +"),
    ],
)
def test_a_bug_planted_where_room_ends_is_found(format_name: str, line: str, instead: str) -> None:
    need("fast")
    with pytest.raises(AssertionError):
        scan_without_room(ChangedDevice(line, instead), format_name, 33)
