"""Layers of a map: against a definition that counts page by page."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpuscan.base.errors import ArgumentError
from gpuscan.heatmap.cells import sort_cells
from gpuscan.heatmap.counting import Counting
from gpuscan.heatmap.gathering import Spares
from gpuscan.heatmap.layer import Layer

N_PAGES = 1 << 20


def counted(layer: Layer) -> dict[tuple[int, int], int]:
    return dict(
        zip(zip(layer.rows.tolist(), layer.columns.tolist(), strict=True), layer.counts.tolist(), strict=True)
    )


def page_by_page(
    adds: list[tuple[int, list[int], list[int]]], row_shift: int, column_shift: int
) -> dict[tuple[int, int], int]:
    cells: Counter[tuple[int, int]] = Counter()
    for step, flats, sizes in adds:
        for flat, size in zip(flats, sizes, strict=True):
            if flat >= 0:
                cells.update((page >> row_shift, step >> column_shift) for page in range(flat, flat + size))
    return dict(cells)


@pytest.mark.parametrize("n_cells_max", [8192, 1 << 20])
def test_every_base_page_is_counted_in_its_cell_however_coarse(n_cells_max: int) -> None:
    random = np.random.default_rng(7)
    adds = []
    counting = Counting(N_PAGES, n_cells_max)
    for step in range(0, 60, 3):
        flats = random.integers(-1, N_PAGES - 600, 60)
        sizes = random.choice([1, 1, 1, 16, 512], len(flats))
        counting.add(step, flats, sizes)
        adds.append((step, flats.tolist(), sizes.tolist()))
    layer = counting.layer()
    assert counted(layer) == page_by_page(adds, layer.row_shift, layer.column_shift)
    assert len(layer.rows) <= n_cells_max
    assert (layer.row_shift > 0) == (n_cells_max == 8192)
    coarser = layer.coarser(N_PAGES, 60)
    assert counted(coarser) == page_by_page(adds, coarser.row_shift, coarser.column_shift)
    assert (coarser.row_shift, coarser.column_shift) != (layer.row_shift, layer.column_shift)


@pytest.mark.parametrize("is_aside", [False, True])
def test_what_was_handed_out_stays_as_it_was_and_counting_goes_on(
    is_aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers gather and sort in arrays that go from one to the other, as a run's do."""
    monkeypatch.setattr("gpuscan.heatmap.gathering.GATHERED_MAX", 256)
    random, spares = np.random.default_rng(8), Spares()
    pool = ThreadPoolExecutor(2) if is_aside else None
    countings = [Counting(N_PAGES, n, pool=pool, spares=spares) for n in (300, 1 << 20)]
    adds: list[tuple[int, list[int], list[int]]] = []
    taken: list[tuple[Layer, int]] = []
    states = []
    for step in range(12):
        flats = random.integers(-1, 2000, random.integers(0, 700))
        for counting in countings:
            counting.add(step, flats)
        adds.append((step, flats.tolist(), [1] * len(flats)))
        if step % 4 == 1:
            taken += [(counting.layer(), step + 1) for counting in countings]
            states += [(counting.state(), counting.state()["keys"].copy()) for counting in countings]
    taken += [(counting.layer(), 12) for counting in countings]
    for layer, n_steps in taken:
        assert counted(layer) == page_by_page(adds[:n_steps], layer.row_shift, layer.column_shift)
    for state, keys in states:
        assert state["keys"].tolist() == keys.tolist()
    assert taken[-2][0].row_shift > 0
    if pool is not None:
        pool.shutdown()


def test_time_without_end_fits() -> None:
    counting = Counting(N_PAGES)
    steps = (0, 1 << 23, (1 << 26) + 5)
    for step in steps:
        counting.add(step, np.array([3]))
    layer = counting.layer()
    assert counted(layer) == page_by_page([(step, [3], [1]) for step in steps], 0, layer.column_shift)
    assert layer.row_shift == 0


def test_an_image_has_whole_cells_and_all_of_its_window() -> None:
    rows = np.array([0, 1, 9, 9, 30], dtype=np.int64)
    layer = Layer.of(rows, np.array([0, 2, 2, 7, 7]), np.array([1, 2, 3, 4, 5]), 2, 1)
    image = layer.image((5, 64), (0, 16), (3, 100))
    assert (image.first_page, image.pages_each, image.first_step, image.steps_each) == (4, 20, 0, 2)
    assert image.pixels.shape == (3, 8)
    assert image.pixels.sum() == 2 + 3 + 4
    assert image.pixels[0, 2] == 2
    assert image.pixels[1, 7] == 4
    one = layer.image((0, 200), (0, 16), (1, 1))
    assert one.pixels.tolist() == [[15.0]]


@pytest.mark.slow
def test_many_points_take_bounded_memory() -> None:
    """10^8 points all over 1 TiB: about 5 s of one core."""
    counting = Counting(1 << 28)
    random = np.random.default_rng(1)
    flats = random.integers(0, 1 << 28, 1_000_000)
    for step in range(100):
        counting.add(step, (flats + step * 7_654_321) & ((1 << 28) - 1))
    layer = counting.layer()
    assert layer.counts.sum() == 100_000_000
    assert len(layer.rows) <= 1 << 20


@pytest.mark.parametrize("at", [1, 7, 15])
def test_counting_goes_on_from_its_state_and_becomes_as_coarse_as_undisturbed(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sorted, and cut, when enough was gathered and not when its state is taken."""
    monkeypatch.setattr("gpuscan.heatmap.gathering.GATHERED_MAX", 3000)
    whole, first, second = Counting(N_PAGES, 5000), Counting(N_PAGES, 5000), Counting(N_PAGES, 5000)
    random = np.random.default_rng(5)
    for step in range(20):
        flats = random.integers(0, N_PAGES - 600, 400)
        sizes = random.choice([1, 16], 40)
        for counting in (whole, first if step < at else second):
            counting.add(step, flats)
            counting.add(step, flats[:40], sizes)
        if step == at - 1:
            second.restore(first.state())
    one, other = whole.layer(), second.layer()
    assert counted(one) == counted(other)
    assert (one.row_shift, one.column_shift) == (other.row_shift, other.column_shift)
    assert one.row_shift > 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("row_shift", 41, "row_shift"),
        ("keys", np.array([5, 5]), "do not ascend"),
        ("keys", np.array([5]), "counts of the map has 2 elements, not 1"),
        ("keys", np.array([5, N_PAGES << 24]), "not below"),
        ("points", np.array([-1]), "below 0"),
        ("counts", np.array([1, 0]), "below 1"),
        ("counts", np.array([1.0, 2.0]), "not an array of int64"),
        ("keys", np.array([3 << 24, (4 << 24) + 1]), "after its last step"),
        ("points", np.array([1]), "after its last step"),
        ("last_step", 1 << 24, "the last column"),
        ("counts", np.array([1 << 62, 1 << 62]), "more than can have happened"),
        ("points", np.zeros(2**21 + 1, dtype=np.int64), "more than 2097152"),
    ],
)
def test_a_state_of_something_else_is_refused(name: str, value: object, said: str) -> None:
    counting = Counting(N_PAGES)
    counting.add(0, np.array([3, 4]))
    counting.layer()
    state = counting.state()
    Counting(N_PAGES).restore(state)
    with pytest.raises(ArgumentError, match=said):
        Counting(N_PAGES).restore({**state, name: value})


def test_cells_after_the_last_step_become_fewer_too() -> None:
    """A file may have them; nothing may try for ever to put them together by halving what they are not in."""
    columns = np.array([0, 1 << 20, (1 << 24) - 1])
    layer = Layer.of(np.zeros(3, dtype=np.int64), columns, np.ones(3, dtype=np.int64), 0, 0)
    for _ in range(64):
        layer = layer.coarser(4, 2)
    assert counted(layer) == {(0, 0): 3}


def test_a_part_of_a_layer_is_of_all_of_it_and_becomes_as_coarse() -> None:
    random = np.random.default_rng(2)
    counting = Counting(N_PAGES)
    for step in range(16):
        counting.add(step, random.integers(0, N_PAGES, 4000))
    layer = counting.layer()
    part = layer.part(8)
    assert len(part.rows) * 8 == pytest.approx(len(layer.rows), rel=0.05)
    assert np.isin(part.rows, layer.rows).all()
    assert np.bincount(part.rows * 4 // N_PAGES, minlength=4).min() > 0
    assert counted(layer.at(3, 1)).keys() >= counted(part.at(3, 1)).keys()
    step_by_step = layer.coarser(N_PAGES, 16).coarser(N_PAGES, 16)
    assert counted(step_by_step) == counted(layer.at(step_by_step.row_shift, step_by_step.column_shift))
    few = Layer.of(np.arange(3), np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64), 0, 0)
    assert 0 < len(few.part(8).rows) <= 3
    assert not len(few.part(8).part(8).at(2, 2).part(1).rows) - 1


@pytest.mark.parametrize("most", [1 << 54, 1 << 55, 1 << 62, (1 << 63) - 1])
@pytest.mark.parametrize("ascends", [False, True])
def test_keys_of_up_to_63_bits_are_sorted(most: int, ascends: bool) -> None:
    """Digits begin at bit 0, or above the columns where these ascend; either way the last is no whole one."""
    random = np.random.default_rng(6)
    keys = np.append(random.integers(0, most, 500, endpoint=True), most)
    if ascends:
        keys = keys >> 24 << 24
    counts = np.arange(len(keys))
    order = np.argsort(keys, kind="stable")
    found, found_counts = sort_cells(keys.copy(), counts.copy())
    assert found.tolist() == keys[order].tolist()
    assert found_counts.tolist() == order.tolist()
