"""Settings and results that make no sense are refused where they are made; the store is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuscan
from gpuscan import ArgumentError, Engine, MigrateResult, Policy, Produced, RunFailedError, Sampled, Store
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.shards.sharded_store import ShardedStore
from machines import tiered
from surface import Moves, Quiet

NONE = np.empty(0, dtype=np.int64)


def open_store(record_format: str = "rfc") -> Store:
    store = Store(tiered(), record_format, "reference")
    store.load_pages(store.page_map.present_bits())
    return store


def engine(**given: Any) -> Engine:
    parts = {"store": open_store(), "source": Quiet(), "migrator": Moves(), "policy": Policy(), **given}
    return Engine(**parts)


def a_plan() -> gpuscan.Plan:
    store = open_store()
    store.request(5 * SECTION_PAGES + np.arange(5), 0)
    return store.scan()


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("policy: on_refused is 'maybe'; give one of retry, drop", lambda: Policy(on_refused="maybe")),  # type: ignore[arg-type]
    ("policy: hz is 0; give 1 to", lambda: Policy(hz=0)),
    ("policy: interval_ns is -5; give 1 to", lambda: Policy(interval_ns=-5)),
    ("policy: scan_path is 'foo'; give one of dense, indexed, auto", lambda: Policy(scan_path="foo")),  # type: ignore[arg-type]
    ("policy: record_format is 'rfc-page-ext'; give one of", lambda: Policy(record_format="rfc-page-ext")),
    ("policy: drop_top_tier is 1; give True or False", lambda: Policy(drop_top_tier=1)),  # type: ignore[arg-type]
    ("policy: capacity_folios is 511, less than one block", lambda: Policy(capacity_folios=511)),
    ("policy: batch_pages is 0", lambda: Policy(batch_pages=0)),
    ("an interval of node_interval_ns is 0", lambda: Policy(node_interval_ns=((0, 0),))),
    ("has no node 9", lambda: engine(policy=Policy(node_interval_ns=((9, 5),)))),
    ("records of format pghot, and its store has rfc", lambda: engine(policy=Policy(record_format="pghot"))),
    ("an engine's store is 'cxl'; give a gpuscan.Store", lambda: engine(store="cxl")),
    ("an engine's source, None, has no sample", lambda: engine(source=None)),
    ("an engine's migrator, .* is not made yet", lambda: engine(migrator=Moves)),
    ("produced: kind is 'x'; give one of request, record", lambda: Produced("x", NONE, NONE.astype("i4"))),  # type: ignore[arg-type]
    (r"produced: nids has 1 elements, expected 2; give int32\[2\]", lambda: Produced("record", [1, 2], [0])),  # type: ignore[arg-type]
    ("sampled: produced.0. is 5, not a Produced", lambda: Sampled((5,))),  # type: ignore[arg-type]
    ("migrate result: status has values from 1 to 1", lambda: MigrateResult(np.ones(2, dtype=int), {}, 0.0)),
    ("migrate result: busy_ns is nan", lambda: MigrateResult(NONE.astype("i2"), {}, float("nan"))),
    ("folio events: order is 16; give 0 to 15", lambda: gpuscan.FolioEvents(NONE, NONE, 16)),
    ("a store's topology is 'two-socket-cxl', not a Topology; give", lambda: Store("two-socket-cxl")),  # type: ignore[arg-type]
    ("a store's topology is 'cxl'", lambda: ShardedStore("cxl", n_shards=1)),  # type: ignore[arg-type]
    ("n_shards is 0; give 1 or more", lambda: ShardedStore(tiered(), n_shards=0)),
    ("n_threads is 1099511627776; give 1 to 8192", lambda: Store(tiered(), device="cpu", n_threads=1 << 40)),
    (r"load: eligible_bits has 2 elements, expected 2048", lambda: open_store().load_pages([1, 2])),  # type: ignore[arg-type]
    ("pages_for: target_nid is 77; give 0 to 3", lambda: a_plan().pages_for(77)),
    ("pages_for: target_nid is -1; give 0 to 3", lambda: a_plan().pages_for(-1)),
    ("batch_pages is 4611686018427387904; give", lambda: a_plan().batches(1 << 62)),
    ("flat pages from -1 to -1 are not all in", lambda: tiered().page_map.pfn_of_flat([-1])),
    ("PFNs are whole numbers", lambda: tiered().page_map.flat_of_pfn([1.5])),
    ("ledger: a number of folios is -1", lambda: gpuscan.Ledger().moved(-1)),
    ("run: duration_ns is -1", lambda: gpuscan.HintFaultSource(_machine()).sample(0, -1)),
    (
        "access: folios has values",
        lambda: _machine().access(np.array([1 << 40]), np.zeros(1, dtype=np.int32)),
    ),
]


def _machine() -> gpuscan.SimulatedMachine:
    from surface import _spec

    return gpuscan.SimulatedMachine(tiered(), _spec())


@pytest.mark.parametrize(("message", "use"), REFUSED, ids=[message[:40] for message, _ in REFUSED])
def test_nonsense_is_refused_with_a_remedy(message: str, use: Callable[[], Any]) -> None:
    with pytest.raises((ArgumentError, gpuscan.TopologyError), match=message) as caught:
        use()
    assert "; " in str(caught.value)
    assert isinstance(caught.value, gpuscan.InputError)


@pytest.mark.parametrize("returned", [None, 0, (np.zeros(1), {}), np.zeros(1)])
def test_a_migrator_that_returns_something_else_loses_nothing(returned: Any) -> None:
    class Returns:
        def migrate(self, target_nid: int, pfns: Any, n_pages: Any) -> Any:
            return returned

    store = open_store()
    with pytest.raises(
        RunFailedError, match=r"the migrator Returns returned .*; return a gpuscan.MigrateResult"
    ):
        engine(store=store, migrator=Returns()).tick()
    assert store.count_ready() == 1


@pytest.mark.parametrize("returned", [None, (), {"produced": ()}])
def test_a_source_that_returns_something_else_is_named(returned: Any) -> None:
    class Returns(Quiet):
        def sample(self, now_ns: int, duration_ns: int) -> Any:
            return returned

    with pytest.raises(RunFailedError, match=r"the source Returns returned .*; return a gpuscan.Sampled"):
        engine(source=Returns()).tick()


def test_numbers_of_numpy_are_as_good() -> None:
    policy = Policy(hz=np.int64(250), interval_ns=np.uint32(5), drop_top_tier=np.bool_(False))  # type: ignore[arg-type]
    assert policy == Policy(hz=250, interval_ns=5, drop_top_tier=False)
    assert type(policy.hz) is int


def test_a_state_of_nothing_is_no_state() -> None:
    store = open_store()
    before = store.dump().records
    state = dict(store.state())
    spoilt: Any
    for spoilt in (
        None,
        {},
        {**state, "cursor": 77},
        {**state, "active_nids": [5000]},
        {**state, "resume_flat": [0]},
    ):
        with pytest.raises(ArgumentError, match=r"restore: .*; "):
            store.restore(spoilt)
    np.testing.assert_array_equal(store.dump().records, before)
    with pytest.raises(ArgumentError, match="the engine lacks the key"):
        engine().restore({})
