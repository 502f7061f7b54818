"""A map over addresses of processes: against a definition that counts page by page."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.heatmap.addresses import N_SECTIONS_MAX, N_STRETCHES_MAX, AddressRecorder
from gpuscan.heatmap.map import HeatMap, create_map, read_map
from gpuscan.heatmap.request import window_of
from gpuscan.heatmap.space import ADDRESSES

PAGE, MIB = 4096, 1 << 20
HEAP, LIBRARY, FAR = 0x5555_0000_0000, 0x7F00_0000_0000, 0x7FFF_0000_0000
MAPPINGS = [
    (HEAP, HEAP + 300 * MIB, "[heap]"),
    (LIBRARY, LIBRARY + MIB, "/usr/lib/libc.so.6"),
    (LIBRARY + MIB, LIBRARY + 2 * MIB, "/usr/lib/libc.so.6"),
    (LIBRARY + 40 * MIB, LIBRARY + 41 * MIB, "anonymous"),
    (FAR, FAR + MIB, "[stack]"),
]


def recorder(n_cells_max: int = 1 << 18) -> AddressRecorder:
    made = AddressRecorder("host", 10, n_cells_max, lambda flats: flats + 7)
    made.mapped(0, "redis (11)", MAPPINGS)
    made.mapped(3, "java (12)", MAPPINGS)
    return made


def counted(heat: HeatMap, name: str) -> Counter[tuple[int, int, int]]:
    """Return how often what was counted: process, page number of the row's first page, column."""
    found: Counter[tuple[int, int, int]] = Counter()
    layer, space = heat.layers[name], heat.space
    for row, column, count in zip(layer.rows, layer.columns, layer.counts, strict=True):
        flat = int(row) << layer.row_shift
        inside = next(
            (number, page + max(0, flat - start))
            for start, page, n_pages, number, _ in space.extents
            if start < flat + (1 << layer.row_shift) and start + n_pages > flat
        )
        found[inside[0], inside[1] >> layer.row_shift, int(column)] += int(count)
    return found


@pytest.mark.parametrize("n_cells_max", [3000, 1 << 18])
def test_every_access_is_counted_at_its_process_and_address(n_cells_max: int) -> None:
    random, made = np.random.default_rng(4), recorder(n_cells_max)
    places = [HEAP, HEAP + 200 * MIB, LIBRARY + 40 * MIB, FAR]
    told: list[tuple[int, int, int]] = []
    for step in range(40):
        for number in (3, 0):
            addresses = random.choice(places, 100) + random.integers(0, MIB, 100)
            made.accessed(step * 10, number, addresses)
            told += [(number, int(address) // PAGE, step) for address in addresses]
    heat = made.map(400)
    assert heat is not None
    layer = heat.layers["accesses"]
    expected = Counter(
        {(number, page >> layer.row_shift, step >> layer.column_shift): 0 for number, page, step in told}
    )
    for number, page, step in told:
        expected[number, page >> layer.row_shift, step >> layer.column_shift] += layer.one_in
    assert counted(heat, "accesses") == expected
    assert (layer.row_shift > 0) == (n_cells_max == 3000)
    assert np.all(np.diff(layer.rows) >= 0)


def test_what_is_not_mapped_is_squeezed_out_and_the_rest_has_names() -> None:
    made = recorder()
    made.accessed(0, 3, np.array([LIBRARY + 5, FAR + MIB // 2]))
    made.accessed(0, 0, np.array([HEAP + 5 * PAGE]))
    heat = made.map(10)
    assert heat is not None
    space = heat.space
    assert space.kind == ADDRESSES
    assert space.nodes == {0: "redis (11)", 3: "java (12)"}
    names = [(band.nid, band.name, band.n_pages) for band in space.bands(by_zone=True)]
    assert names == [
        (0, "[heap]", 128 * MIB // PAGE),  # of sections of 128 MiB in which something was seen
        (3, "/usr/lib/libc.so.6", 2 * MIB // PAGE),
        (3, "anonymous", MIB // PAGE),
        (3, "[stack]", MIB // PAGE),
    ]
    assert space.n_pages == sum(n for *_, n in names)
    assert [hole.n_pages * PAGE for hole in space.holes()] == [38 * MIB, FAR - LIBRARY - 41 * MIB]
    assert space.text_of(0) == f"{HEAP:#x}"
    with pytest.raises(InputError, match="over addresses of processes"):
        window_of(heat, "0x1-0x2", None)


def test_what_was_mapped_before_keeps_its_name_where_nothing_else_is() -> None:
    made = recorder()
    made.accessed(0, 0, np.array([HEAP, LIBRARY, FAR, FAR + 64 * MIB]))
    made.mapped(0, "redis (11)", [(HEAP, HEAP + MIB, "other"), (LIBRARY, LIBRARY + MIB, "/lib/new.so")])
    heat = made.map(10)
    assert heat is not None
    names = [band.name for band in heat.space.bands(by_zone=True)]
    unknown = "(mapped for a moment)"
    assert names == [
        "other",
        "[heap]",
        "/lib/new.so",
        "/usr/lib/libc.so.6",
        "anonymous",
        "[stack]",
        unknown,
    ]


def test_folios_are_counted_at_their_addresses_and_move_from_none() -> None:
    made = recorder()
    frames = np.array([100, 200, 512])
    numbers, addresses = np.array([0, -1, 3]), np.array([HEAP + PAGE, 0, HEAP + 6 * MIB + 9 * PAGE])
    asked: list[list[int]] = []

    def look_up(pfns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(pfns.tolist())
        at = [frames.tolist().index(pfn) for pfn in pfns.tolist()]
        return numbers[at], addresses[at]

    made.look_up = look_up
    made.marked(0, frames)
    made.claimed(20, frames - 7, np.array([1, 1, 512]))
    made.look_up = lambda pfns: pytest.fail("what was moved is in the address map no more")
    made.moved(20, frames[::2][::-1] - 7, np.array([512, 1]))
    heat = made.map(30)
    assert heat is not None
    assert asked == [frames.tolist()] * 2
    assert heat.layers["marks"].counts.sum() == 2
    assert heat.layers["claims"].counts.sum() == heat.layers["moves"].counts.sum() == 513
    first = (HEAP + 6 * MIB) // PAGE
    assert {page for number, page, _ in counted(heat, "moves") if number == 3} == set(
        range(first, first + 512)
    )


def test_more_memory_than_there_is_room_for_is_counted_as_left_out() -> None:
    made = recorder()
    made.accessed(0, 0, np.arange(N_SECTIONS_MAX + 5) << 27)
    assert made.n_left_out == 5
    heat = made.map(10)
    assert heat is not None
    assert heat.layers["accesses"].counts.sum() == 32 * N_SECTIONS_MAX


def test_a_process_that_is_gone_is_known_as_far_as_something_was_counted_in_it() -> None:
    """Many come and go in a long session; whether one is gone changes nothing of the map."""
    maps = []
    for is_gone in (False, True):
        made = recorder()
        made.accessed(0, 3, np.array([LIBRARY + 5, FAR]))
        for number in (0, 3) if is_gone else ():
            made.gone(number)
        assert (0 in made._names) == (0 in made._stretches) == (0 in made._read) == (not is_gone)
        made.mapped(4, "next (13)", MAPPINGS)
        made.accessed(10, 4, np.array([HEAP]))
        heat = made.map(20)
        assert heat is not None
        maps.append(heat)
    assert maps[0].space == maps[1].space
    assert maps[0].space.nodes == {3: "java (12)", 4: "next (13)"}
    assert counted(maps[0], "accesses") == counted(maps[1], "accesses")
    tracemalloc.start()
    try:
        for number in range(10, 210):
            made.mapped(number, f"short-lived ({number})", MAPPINGS)
            made.gone(number)
        assert tracemalloc.get_traced_memory()[0] < 60_000  # kept they would take four times that
    finally:
        tracemalloc.stop()


def test_what_a_process_maps_elsewhere_all_the_time_is_joined() -> None:
    made = recorder()
    made.accessed(0, 0, np.array([HEAP, LIBRARY, FAR]))
    for at in range(5):
        first = (at + 1) << 40
        small = [(first + 3 * i * PAGE, first + (3 * i + 1) * PAGE, f"small {i % 7}") for i in range(1000)]
        made.mapped(0, "redis (11)", [*small, (first + (1 << 30), first + (1 << 31), "large")])
        made.accessed(10, 0, np.array([first, first + (1 << 30)]))
        stretches = made._stretches[0]
        assert len(stretches) <= N_STRETCHES_MAX
        assert all(one[1] <= after[0] for one, after in pairwise(stretches))
    heat = made.map(20)
    assert heat is not None
    bands = heat.space.bands(by_zone=True)
    assert {band.name for band in bands} == {
        "[heap]",
        "/usr/lib/libc.so.6",
        "anonymous",
        "[stack]",
        "large",
    } | {f"small {i}" for i in range(7)}
    assert sum(band.name == "large" for band in bands) == 5
    assert len(bands) > 2000


def test_seams_between_mappings_of_one_name_are_not_kept() -> None:
    made = recorder()
    assert [name for *_, name in made._stretches[0]] == [
        "[heap]",
        "/usr/lib/libc.so.6",
        "anonymous",
        "[stack]",
    ]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = recorder()
    made.accessed(0, 3, np.array([FAR]))
    made.accessed(0, 0, np.array([FAR]))
    heat = made.map(10)
    assert heat is not None
    create_map(tmp_path / "addresses.parquet", heat)
    assert read_map(tmp_path / "addresses.parquet").space == heat.space
    assert recorder().map(10) is None
