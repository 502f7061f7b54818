"""The store's own part: what it makes of arguments, cursors and budgets, on the reference kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuscan.base.errors import ArgumentError, InputError, TopologyError
from gpuscan.kernels.api import Outcome, ReleaseOutcome
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store import in_flight
from gpuscan.store.plan import Plan
from gpuscan.store.single import Store
from machines import tiered

START = 5 * SECTION_PAGES
"""First PFN of node 2, flat page 2 * SECTION_PAGES."""


def open_store(record_format: str = "rfc", **options: Any) -> Store:
    store = Store(tiered(), record_format, "reference", **options)
    store.load_pages(store.page_map.present_bits())
    return store


def ended(counts: dict[Outcome, int]) -> dict[Outcome, int]:
    return {outcome: n for outcome, n in counts.items() if n}


@pytest.mark.parametrize("nid", [1 << 32, -(1 << 32), 1024, 1 << 16])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_a_nid_of_any_width_is_no_other_node(nid: int, dtype: type) -> None:
    nids: NDArray[Any] = np.array([nid], dtype=np.int64).astype(dtype)
    assert ended(open_store().request([START], nids)) == {Outcome.UNKNOWN_TARGET: 1}
    assert ended(open_store().request([START], nid)) == {Outcome.UNKNOWN_TARGET: 1}


@pytest.mark.parametrize(
    ("pfns", "nids", "message"),
    [
        ([1.5], 0, r"PFNs are whole numbers below 2\*\*63, not float64"),
        ([1 << 70], 0, r"PFNs are whole numbers below 2\*\*63, not object"),
        ([1], [0.0], "target nids are whole numbers"),
        ([[1]], 0, "one dimension, not 2"),
        ([1, 2, 3], [0, 1], "3 PFNs come with 2 target nids"),
    ],
)
def test_arguments_that_make_no_sense(pfns: Any, nids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_store().request(pfns, nids)


def test_no_pages_are_no_requests() -> None:
    assert ended(open_store().request([], 0)) == {}
    assert ended(open_store().request([], [])) == {}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda store: store.scan(capacity=0), "capacity of at least 512"),
        (lambda store: store.scan(capacity=511), "capacity of at least 512"),
        (lambda store: store.rank(-1, 0), "a budget of -1 pages is negative"),
        (lambda store: store.rank({0: 5, 1: -2}, 0), "a budget of -2 pages is negative"),
    ],
)
def test_limits_that_make_no_sense(use: Callable[[Store], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        use(open_store())


def test_a_target_without_memory_has_no_budget() -> None:
    with pytest.raises(TopologyError, match="has no node 9"):
        open_store().rank({9: 5}, 0)


def test_a_drain_goes_once_around_from_where_the_last_one_stopped() -> None:
    store = open_store()
    pfns = START + np.arange(0, 2000, 2)
    store.request(pfns, 0)
    first = next(iter(store.drain(capacity=512)))
    assert 0 < first.cursor == store.cursor < store.n_pages
    store.request(pfns[:3], 0)  # behind the cursor
    found = np.concatenate([first.pfn, *(plan.pfn for plan in store.drain(capacity=512))])
    assert sorted(found) == sorted([*pfns, *pfns[:3]])
    assert store.cursor == first.cursor


def test_ties_are_served_in_turn() -> None:
    store = open_store()
    pfns = START + np.arange(10)
    store.request(pfns, 0)
    served = []
    for _ in range(6):
        store.request(pfns[:4], 0)  # low PFNs that come again at once
        served += [pfn for plan in store.drain(budget_pages=2) for pfn in plan.pfn.tolist()]
    assert sorted(set(served)) == pfns.tolist()


def test_what_was_freed_does_not_come_back() -> None:
    store = open_store()
    store.request([START, START + 1], 0)
    plan = store.scan()
    assert store.forget(plan.flat[:1]) == 0
    released = store.release(plan.flat, plan.words)
    assert released[ReleaseOutcome.INELIGIBLE] == released[ReleaseOutcome.RESTORED] == 1
    assert store.forget(plan.flat[1:]) == 1
    assert store.count_ready() == 0


def a_store_of_three(device: str = "reference") -> Store:
    store = Store(tiered(), "rfc", device)
    store.load_pages(store.page_map.present_bits())
    (node_0, _), (node_2, _) = (
        store.page_map.node_section_ranges(0)[0],
        store.page_map.node_section_ranges(2)[0],
    )
    store.request(store.page_map.pfn_of_flat(node_0 + np.arange(3)), 1)
    store.request(store.page_map.pfn_of_flat(node_2 + np.arange(5)), 0)
    return store


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_nodes_are_named_by_their_nids(device: str) -> None:
    for nodes, n_claimed in (
        ([2], 5),
        ([0], 3),
        ((2, 0), 8),
        (np.array([2]), 5),
        ({1}, 0),
        (iter([0]), 3),
        ([], 0),
    ):
        with a_store_of_three(device) as store:
            assert len(store.scan(nodes=nodes)) == n_claimed
            assert store.count_ready() == 8 - n_claimed
        with a_store_of_three(device) as store:
            nodes = [0] if isinstance(nodes, Iterator) else nodes
            assert sum(map(len, store.drain(nodes=nodes, budget_pages=100))) == n_claimed
            seen = store.rank(100, 0, nodes).seen_pages
            assert int(seen.sum()) == 0


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int64])
def test_a_mask_has_a_name_of_its_own(kind: type) -> None:
    mask: np.ndarray = np.zeros(1024, dtype=kind)
    mask[2] = 1
    assert len(a_store_of_three().scan(node_mask=mask)) == 5
    assert sum(map(len, a_store_of_three().drain(node_mask=mask))) == 5
    assert int(a_store_of_three().rank(9, 0, node_mask=mask).seen_pages.sum()) == 5


WRONG_NODES: list[tuple[dict[str, Any], str]] = [
    ({"nodes": np.ones(1024, dtype=np.uint8)}, "name one node twice; give nids, each once, or .* node_mask="),
    ({"nodes": np.zeros(2, dtype=np.uint8)}, "name one node twice"),
    ({"nodes": [9]}, "has no node 9"),
    ({"nodes": [-1]}, "has no node -1"),
    ({"nodes": [1 << 70]}, "whole numbers"),
    ({"nodes": [[0, 2]]}, r"2 dimensions; give nids, as in nodes=\[0, 2\]"),
    ({"nodes": 2}, "0 dimensions"),
    ({"nodes": [True, False]}, "whole numbers"),
    ({"nodes": [2.0]}, "whole numbers"),
    ({"nodes": "host"}, "whole numbers"),
    ({"node_mask": [2]}, r"node_mask has 1 elements, expected 1024; give uint8\[1024\]"),
    ({"node_mask": np.zeros(2, dtype=np.uint8)}, "node_mask has 2 elements"),
    ({"node_mask": np.full(1024, 256)}, "node_mask has values from 256 to 256"),
    ({"node_mask": np.ones(1024)}, "not of whole numbers"),
    ({"nodes": [2], "node_mask": np.ones(1024, dtype=np.uint8)}, "two ways to name nodes; give one of them"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_NODES)
@pytest.mark.parametrize("use", ["scan", "drain", "rank"])
def test_nodes_that_make_no_sense(use: str, wrong: dict[str, Any], message: str) -> None:
    with a_store_of_three() as store:
        budget = {"budget_pages": 5, "now_jiffies": 0} if use == "rank" else {}
        with pytest.raises(InputError, match=message):
            getattr(store, use)(**budget, **wrong)
        assert store.count_ready() == 8


def test_a_store_passes_over_the_checks_of_its_own_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests hold these plans against the checks (tests/conftest.py)."""
    store = a_store_of_three()
    monkeypatch.setattr(in_flight, "_plan_of", in_flight._plan_of.__wrapped__)  # type: ignore[attr-defined]
    monkeypatch.setattr(Plan, "__post_init__", lambda plan: pytest.fail("a plan of the store was checked"))
    unchecked = store.scan()
    assert (type(unchecked), len(unchecked)) == (Plan, 8)
    with pytest.raises(TypeError, match=r"other fields: .*why"):
        in_flight._plan_of(offsets=unchecked.offsets)


def test_a_plan_made_of_a_stores_plan_is_checked() -> None:
    plan = a_store_of_three().scan()
    with pytest.raises(ArgumentError, match="plan: pfn has 7 elements, expected 8"):
        replace(plan, pfn=plan.pfn[1:])
