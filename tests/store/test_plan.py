"""Plans and batches: the cut, against a loop that fills batches folio by folio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from plans import make_plan


def fill_batches(groups: list[list[int]], batch_pages: int) -> list[tuple[int, list[int]]]:
    """Return (target, folio orders) per batch, by filling one batch at a time."""
    batches: list[tuple[int, list[int]]] = []
    for target, group in enumerate(groups):
        current: list[int] = []
        for order in group:
            if current and sum(1 << o for o in current) + (1 << order) > batch_pages:
                batches.append((target, current))
                current = []
            current.append(order)
        if current:
            batches.append((target, current))
    return batches


ORDERS = st.lists(st.lists(st.sampled_from([0, 0, 0, 2, 4, 9]), max_size=40), min_size=1, max_size=6)


@given(ORDERS, st.sampled_from([1, 3, 16, 512, 600]))
def test_batches_of_folios_are_filled_in_order(groups: list[list[int]], batch_pages: int) -> None:
    plan = make_plan(groups, with_order=True)
    orders = [order for group in groups for order in group]
    cut = plan.batches(batch_pages)
    assert [(b.target_nid, orders[b.lo : b.hi]) for b in cut] == fill_batches(groups, batch_pages)
    assert [b.n_pages for b in cut] == [
        sum(1 << o for o in orders) for _, orders in fill_batches(groups, batch_pages)
    ]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 20))
def test_batches_of_single_pages_are_filled_in_order(counts: list[int], batch_pages: int) -> None:
    groups = [[0] * count for count in counts]
    cut = make_plan(groups, with_order=False).batches(batch_pages)
    expected = fill_batches(groups, batch_pages)
    assert [(b.target_nid, b.hi - b.lo, b.n_pages) for b in cut] == [(t, len(o), len(o)) for t, o in expected]
    assert cut.of_folio().tolist() == [i for i, (_, orders) in enumerate(expected) for _ in orders]


def test_a_full_batch_is_512_pages_not_513() -> None:
    """pghot's ``++batch_count > batch_nr`` lets 513 through; ours closes at 512."""
    assert [b.n_pages for b in make_plan([[0] * 1025], with_order=False).batches()] == [512, 512, 1]


def test_a_huge_page_fills_a_batch() -> None:
    assert [(b.hi - b.lo, b.n_pages) for b in make_plan([[0, 9, 0, 0]], with_order=True).batches()] == [
        (1, 1),
        (1, 512),
        (2, 2),
    ]


def test_targets_and_pages() -> None:
    plan = make_plan([[0, 0], [], [9]], with_order=True)
    assert plan.targets.tolist() == [0, 2]
    assert plan.n_pages == 514
    assert plan.target_of_folio().tolist() == [0, 0, 2]


def test_empty_batches_are_refused() -> None:
    with pytest.raises(InputError, match="batch_pages is 0; give 1 to"):
        make_plan([[0]], with_order=False).batches(0)
