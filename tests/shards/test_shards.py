"""Shards give what a single store gives: every count, every plan, whatever the machine and the cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases import CASES
from gpuscan.base.errors import InputError
from gpuscan.kernels.api import Outcome
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.shards.ordering import places
from gpuscan.shards.partition import Partition
from gpuscan.shards.sharded_store import ShardedStore, Sharding
from gpuscan.shards.transport import InProcessTransport
from gpuscan.store.contract import PageStore
from gpuscan.store.plan import Plan
from gpuscan.store.single import Store
from gpuscan.topology import Topology
from machines import tiered
from sharded import assert_same_plans, machines, random_pfns
from sharded_runs import assert_same_run

EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)
shard_counts = st.integers(1, 12)


def pair(machine: Topology, n_shards: int, device: Any, **options: Any) -> list[PageStore]:
    n_shards = min(n_shards, machine.page_map.n_sections)
    return [
        Store(machine, device=device, n_threads=1, **options),
        ShardedStore(machine, device=device, n_shards=n_shards, n_threads=1, **options),
    ]


def both(stores: list[PageStore], call: Any) -> Any:
    """Do the same to both; return what both return."""
    one, other = (call(store) for store in stores)
    assert one == other
    return one


@given(machine=machines(), n_shards=shard_counts)
@EXAMPLES
def test_the_parts_of_an_index_are_its_slices(machine: Topology, n_shards: int) -> None:
    whole = machine.page_map
    partition = Partition.even(whole, min(n_shards, whole.n_sections))
    flats = np.arange(0, whole.n_pages, 97)
    present = whole.flat_of_pfn(whole.pfn_of_flat(flats)) == flats
    owner = np.searchsorted(partition.flat_edges, flats, side="right") - 1
    by_pfn, by_flat = partition.by_pfn(whole.pfn_of_flat(flats)), partition.by_flat(flats)
    for shard in range(partition.n_shards):
        first, end = partition.section_edges[shard : shard + 2].tolist()
        part, mine = whole.part(first, end), flats[by_flat[shard]]
        assert (owner[by_flat[shard]] == shard).all()
        np.testing.assert_array_equal(part.section_pfn, whole.section_pfn[first:end])
        np.testing.assert_array_equal(part.pfn_of_flat(mine - first * SECTION_PAGES), whole.pfn_of_flat(mine))
        there = np.intersect1d(flats[by_pfn[shard]], flats[present])
        assert set(there) == set(mine) & set(flats[present])
        np.testing.assert_array_equal(
            part.flat_of_pfn(whole.pfn_of_flat(there)) + first * SECTION_PAGES, there
        )


@given(
    edges=st.lists(st.integers(0, 1000), min_size=0, max_size=14, unique=True).map(sorted),
    values=st.lists(st.integers(-5, 1005), max_size=200),
    is_sorted=st.booleans(),
)
def test_items_are_picked_in_their_order(edges: list[int], values: list[int], is_sorted: bool) -> None:
    given_values = np.array(sorted(values) if is_sorted else values, dtype=np.int64)
    flat_edges = np.array([-10, *edges, 2000], dtype=np.int64)
    partition = Partition(flat_edges, flat_edges, np.array(edges, dtype=np.int64))
    picked = [given_values[mine].tolist() for mine in partition.by_pfn(given_values)]
    for shard, mine in enumerate(picked):
        lo, hi = partition.bounds(shard)
        assert mine == [value for value in given_values.tolist() if lo <= value < hi]


@given(counts=st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=6))
def test_places_are_those_of_a_sort_by_target_and_shard(counts: list[list[int]]) -> None:
    table = np.array(counts, dtype=np.int64)
    folios = [
        (target, shard, k)
        for shard, row in enumerate(counts)
        for target, n in enumerate(row)
        for k in range(n)
    ]
    of_shard: dict[int, list[int]] = {shard: [] for shard in range(len(counts))}
    for name, (_, shard, _) in enumerate(folios):
        of_shard[shard].append(name)
    order = places(table)
    gathered = order.gather([np.array(of_shard[shard], dtype=np.int64) for shard in of_shard], np.int64)
    assert [folios[name] for name in gathered.tolist()] == sorted(folios)
    assert order.offsets.tolist() == [0, *np.cumsum(table.sum(axis=0)).tolist()]


@pytest.mark.parametrize("device", [pytest.param("reference", marks=pytest.mark.slow), "cpu"])
@given(
    machine=machines(),
    n_shards=shard_counts,
    seed=seeds,
    capacity=st.sampled_from([512, 513, 700, 1500, 1 << 20]),
    budget=st.sampled_from([None, 0, 7, 300, {0: 40, 1: 3}]),
    large_folios=st.booleans(),
)
@EXAMPLES
def test_plans_are_those_of_a_single_store(
    device: str,
    machine: Topology,
    n_shards: int,
    seed: int,
    capacity: int,
    budget: Any,
    large_folios: bool,
) -> None:
    rng = np.random.default_rng(seed)
    # With stale index bits, or under a budget, the CPU backend ends plans earlier than needed.
    room = 1 << 20 if device == "cpu" else capacity
    if isinstance(budget, dict) and rng.random() < 0.5:
        budget = dict(list(budget.items())[:1])
    with (
        pair(machine, n_shards, device, large_folios=large_folios)[0] as single,
        pair(machine, n_shards, device, large_folios=large_folios)[1] as sharded,
    ):
        stores = [single, sharded]
        for store in stores:
            store.load_pages(store.page_map.present_bits())
        if large_folios:
            heads = np.flatnonzero(rng.random(single.n_pages >> 6) < 0.02) << 6
            for store in stores:
                store.admit(heads, 6)
        for now in range(3):
            n = int(rng.choice([0, 40, 2500]))
            pfns = random_pfns(single, rng, n)
            nids = rng.integers(-1, 5, n).astype(np.int32)
            both(stores, lambda store: store.request(pfns, nids))  # noqa: B023
            seen = {"now_jiffies": 90 * now, "window_jiffies": 50, "threshold": 2}
            both(stores, lambda store: store.record(pfns[::2], nids[::2], **seen))  # noqa: B023
            nodes = (rng.random(1024) < 0.8).astype(np.uint8) if rng.random() < 0.3 else None
            active = [store.take_active().tolist() for store in stores]
            assert active[0] == active[1]
            plans = [
                list(store.drain(capacity=room, node_mask=nodes, budget_pages=budget, now_jiffies=100 * now))
                for store in stores
            ]
            assert_same_plans(*plans)
            assert single.cursor == sharded.cursor
            for one, other in zip(*plans, strict=True):
                back = rng.random(len(one)) < 0.3
                both(stores, lambda store: store.release(one.flat[back], other.words[back]))  # noqa: B023
                gone = one.flat[rng.random(len(one)) < 0.2]
                both(stores, lambda store: store.forget(gone))  # noqa: B023
            assert both(stores, lambda store: store.count_ready()) >= 0
        single_plans = list(single.drain(capacity=capacity))
        sharded_plans = list(sharded.drain(capacity=capacity))
        if device == "reference":
            assert_same_plans(single_plans, sharded_plans)
        assert_same_union(single_plans, sharded_plans)


def assert_same_union(ones: Any, others: Any) -> None:
    """Compare what was claimed in all, where plans may end elsewhere."""
    folios = [
        {
            (int(flat), int(word), int(target))
            for plan in plans
            for flat, word, target in zip(plan.flat, plan.words, plan.target_of_folio(), strict=True)
        }
        for plans in (ones, others)
    ]
    assert folios[0] == folios[1]


@pytest.mark.parametrize(("device", "capacity"), [("reference", 1024), ("cpu", 512), ("cpu", 700)])
def test_plans_that_end_in_the_middle_of_a_shard(device: str, capacity: int) -> None:
    stores = pair(tiered(1), 3, device)
    rng = np.random.default_rng(capacity)
    pages = stores[0].page_map
    # Up to the edges of shards: full blocks, half of them, one page, nothing.
    flats = np.concatenate(
        [
            block * 512 + rng.permutation(512)[:n]
            for block, n in enumerate(rng.choice([0, 0, 0, 1, 256, 512], pages.n_pages // 512).tolist())
        ]
    )
    for store in stores:
        store.load_pages(pages.present_bits())
        assert store.request(pages.pfn_of_flat(flats), 0)[Outcome.ACCEPTED] > 10 * capacity
    single, sharded = (list(store.drain(capacity=capacity)) for store in stores)
    assert len(single) > 10
    assert max(len(plan) for plan in single) <= capacity
    assert_same_plans(single, sharded)


@pytest.mark.parametrize("name", ["one thread", "hotness units", "a pause that follows the faults"])
def test_a_workload_in_shards_is_that_of_a_single_store(name: str) -> None:
    runs = []
    for sharding in (None, Sharding(InProcessTransport(), 3, None)):
        plans: list[Plan] = []
        scenario = CASES[name].build(lambda tick, plan, batches, to=plans: to.append(plan), sharding=sharding)
        runs.append((scenario.run(), plans))
        assert runs[-1][0].ledger.migrated
    assert_same_run(*runs)
    assert [tick.metrics for tick in runs[0][0].ticks] == [tick.metrics for tick in runs[1][0].ticks]


def test_outcomes_come_back_in_the_callers_order() -> None:
    stores = pair(tiered(3), 5, "reference")
    rng = np.random.default_rng(3)
    pfns = random_pfns(stores[0], rng, 300)
    filled = [np.full(300, 99, dtype=np.uint8) for _ in stores]
    for store, outcomes in zip(stores, filled, strict=True):
        store.load_pages(store.page_map.present_bits())
        store.request_outcomes(pfns, 0, outcomes)
    np.testing.assert_array_equal(filled[0], filled[1])


def test_more_shards_than_sections_are_refused() -> None:
    with pytest.raises(InputError, match="4 sections of 128 MiB cannot be cut into 5 shards; give 1 to 4"):
        ShardedStore(tiered(), device="reference", n_shards=5)
