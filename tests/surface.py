"""The public surface of gpuscan, by introspection, with valid arguments for all of it and ways to spoil one.

``world()`` makes fresh objects; ``entries()`` lists what can be called on them. A public name, method or
parameter for which nothing is known here is an error: what is added to the surface is added to the fuzzing.
"""

from __future__ import annotations

import enum
import inspect
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

import gpuscan
from gpuscan.kernels.api import Budget, RecordParams, ScanRequest, StoreLayout
from gpuscan.linux.system import HERE
from gpuscan.records.page_map import PageMap
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.snapshot.cgroups import PageCgroups
from machines import tiered

EXTRA: dict[str, Any] = {
    "ShardedStore": ShardedStore,
    "ScanRequest": ScanRequest,
    "Budget": Budget,
    "RecordParams": RecordParams,
    "StoreLayout": StoreLayout,
}
"""Not exported by gpuscan itself, but where arrays come in."""

PASSIVE = {
    "Batch": "a tuple that a plan hands out; nothing takes one",
    "TickReport": "numbers that the engine fills in",
    "RunReport": "what a run returns",
    "Scenario": "what build_scenario() returns",
}
"""Constructors that only keep what they are given."""

OWN_ERRORS: dict[str, type[Exception]] = {"Workload": ValueError}
"""Whose constructors raise something else than a GpuscanError: pydantic's ValidationError."""

NOT_CALLED = {
    ("Process", "send_signal"): "sends signals",
    ("Process", "wait"): "waits",
    ("Process", "text"): "reads files of a process; tests/linux/test_linux_pages.py does",
    ("Process", "opened"): "opens files of a process; tests/linux/test_linux_pages.py does",
    ("Process", "write_text"): "writes files of a process; tests/monitors/test_monitors.py does",
    ("Snapshot", "write"): "writes files; tests/snapshot/test_snapshot.py does",
    ("ShardedStore", "protect"): "writes files; tests/shards/test_shards_recovery.py does",
    ("ShardedStore", "take_over"): "reads and writes files; tests/shards/test_shards_takeover.py does",
}


class Anything:
    """A class, and a function of whatever it is called with."""

    def __init__(self, *_args: Any) -> None:
        pass


class Quiet:
    """A source that sees a page or two and ends."""

    def __init__(self) -> None:
        self.n_left = 3

    def sample(self, now_ns: int, duration_ns: int) -> gpuscan.Sampled:
        self.n_left -= 1
        pfns = np.array([5 * 32768 + self.n_left])
        return gpuscan.Sampled((gpuscan.Produced("request", pfns, np.zeros(1, dtype=np.int32)),))

    def finished(self) -> bool:
        return self.n_left <= 0


class Moves:
    """A migrator that always succeeds."""

    def migrate(self, target_nid: int, pfns: Any, n_pages: Any) -> gpuscan.MigrateResult:
        return gpuscan.MigrateResult(np.zeros(len(pfns), dtype=np.int16), {}, 1.0)


@dataclass
class World:
    """Objects to call, and values to call them with."""

    store: gpuscan.Store
    sharded: ShardedStore
    twin: gpuscan.Store
    """On the reference backend, told the same."""
    engines: gpuscan.Store
    """For engines, which change it."""
    machine: gpuscan.SimulatedMachine
    snapshot: gpuscan.Snapshot
    workload: gpuscan.Workload
    plan: gpuscan.Plan
    spec: MachineSpec
    objects: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        for store in (self.store, self.sharded, self.twin, self.engines):
            store.close()


def _spec() -> MachineSpec:
    pattern = PatternSpec(kind="uniform")
    process = ProcessSpec("p", 2000, (0,), 100.0, ((2, 1.0),), pattern=pattern)
    return MachineSpec((process,), HintFaultSpec(scan_bytes=1 << 20))


def refill(store: Any) -> None:
    """Bring a store to where every case begins."""
    store.load_pages(store.page_map.present_bits(), np.zeros(store.n_pages, dtype=np.uint8))
    store.request(5 * 32768 + np.arange(0, 3000, 7), 0)


def world() -> World:
    """Return fresh objects."""
    topology = tiered()
    store = gpuscan.Store(topology, device="cpu", n_threads=1, large_folios=True)
    twin = gpuscan.Store(topology, device="reference", large_folios=True)
    sharded = ShardedStore(topology, device="cpu", n_shards=2, n_threads=1, large_folios=True)
    engines = gpuscan.Store(topology, device="cpu", n_threads=1, large_folios=True)
    for each in (store, twin, sharded):
        refill(each)
    engines.load_pages(engines.page_map.present_bits())
    plan = twin.scan()
    twin.release(plan.flat, plan.words)
    machine = gpuscan.SimulatedMachine(topology, _spec())
    n_pages = topology.page_map.n_pages
    snapshot = gpuscan.Snapshot(
        topology,
        np.zeros(n_pages, dtype=np.uint64),
        np.zeros(n_pages, dtype=np.uint32),
        "6.12.0",
        250,
        False,
        "2025-01-01T00:00:00Z",
    )
    made = World(
        store, sharded, twin, engines, machine, snapshot, gpuscan.load_workload("uniform"), plan, _spec()
    )
    made.objects = {
        "Store": store,
        "ShardedStore": sharded,
        "Plan": plan,
        "Batches": plan.batches(),
        "Policy": gpuscan.Policy(),
        "Ledger": gpuscan.Ledger(),
        "Engine": gpuscan.Engine(engines, Quiet(), Moves(), gpuscan.Policy()),
        "SimulatedMachine": machine,
        "SimulatedMigrator": gpuscan.SimulatedMigrator(machine),
        "HintFaultSource": gpuscan.HintFaultSource(machine),
        "Snapshot": snapshot,
        "Topology": topology,
        "PageMap": topology.page_map,
        "Workload": made.workload,
        "StoreLayout": store.layout,
        "AddressMap": gpuscan.AddressMap(),
        "Room": gpuscan.Room(),
        "MovePagesMigrator": gpuscan.MovePagesMigrator(
            {}, gpuscan.AddressMap(), topology.page_map, gpuscan.Room()
        ),
    }
    return made


def _bits(made: World) -> Any:
    return made.store.page_map.present_bits()


FLATS = np.arange(2 * 32768, 2 * 32768 + 5)
VALID: dict[str, Callable[[World], Any]] = {
    # values by the name of their parameter; "Class.method.name" where one name means several things
    "topology": lambda made: made.store.topology,
    "record_format_name": lambda _: "rfc",
    "device": lambda _: "reference",
    "fixed_target": lambda _: None,
    "large_folios": lambda _: False,
    "n_threads": lambda _: 1,
    "residency": lambda _: "device",
    "records_dir": lambda _: None,
    "on_reserved": lambda _: None,
    "n_shards": lambda _: 2,
    "page_map": lambda made: made.store.page_map,
    "transport": lambda _: None,
    "fallback": lambda _: False,
    "cpu_takes_over": lambda _: False,
    "on_failure": lambda _: None,
    "pfns": lambda _: 5 * 32768 + np.arange(0, 30, 3),
    "nids": lambda _: np.zeros(10, dtype=np.int32),
    "outcomes": lambda _: np.zeros(10, dtype=np.uint8),
    "now_jiffies": lambda _: 100,
    "window_jiffies": lambda _: 50,
    "threshold": lambda _: 2,
    "drop_top_tier": lambda _: True,
    "capacity": lambda _: 4096,
    "path": lambda _: "auto",
    "nodes": lambda _: [2],
    "node_mask": lambda _: None,
    "end": lambda made: made.store.n_pages,
    "cuts": lambda _: None,
    "budget_pages": lambda _: {0: 100},
    "flats": lambda _: FLATS,
    "words": lambda made: made.store.host_arrays().records[FLATS] | 1,
    "order": lambda _: 0,
    "eligible_bits": _bits,
    "load_pages.order": lambda made: np.zeros(made.store.n_pages, dtype=np.uint8),
    "scan_range.request": lambda made: ScanRequest(0, made.store.n_pages, 4096),
    "ScanRequest.node_mask": lambda _: np.ones(1024, dtype=np.uint8),
    "n_ticks": lambda _: 2,
    "on_tick": lambda _: None,
    "earlier": lambda _: (),
    "nid": lambda _: 0,
    "state": lambda _: {},
    "record": lambda _: True,
    "first_section": lambda _: 1,
    "end_section": lambda _: 2,
    "extents": lambda _: [],
    "lo": lambda _: 0,
    "hi": lambda _: 512,
    "limit_pages": lambda _: np.full(4, 7),
    "resume_flat": lambda _: np.zeros(4, dtype=np.int64),
    "now": lambda _: 3,
    "fmt": lambda made: made.store.fmt,
    "node_flags": lambda made: made.store.layout.node_flags,
    "StoreLayout.fixed_target": lambda _: -1,
    "has_large_folios": lambda _: False,
    "target_nid": lambda _: 0,
    "batch_pages": lambda _: 512,
    "offsets": lambda made: made.plan.offsets,
    "pfn": lambda made: made.plan.pfn,
    "flat": lambda made: made.plan.flat,
    "Plan.words": lambda made: made.plan.words,
    "Plan.order": lambda made: np.zeros(len(made.plan), dtype=np.uint8),
    "cursor": lambda _: 0,
    "Plan.path": lambda _: "dense",
    "why": lambda _: "as asked",
    "Batches.target_nid": lambda _: np.zeros(1, dtype=np.int32),
    "Batches.offsets": lambda _: np.array([0, 5]),
    "Batches.n_pages": lambda _: np.array([5]),
    "freed": lambda _: np.arange(3),
    "allocated": lambda _: np.arange(3, 6),
    "kind": lambda _: "request",
    "produced": lambda _: (),
    "events": lambda _: (),
    "metrics": lambda _: {"accesses": 1.0},
    "elapsed_ns": lambda _: 5,
    "status": lambda _: np.zeros(3, dtype=np.int16),
    "reasons": lambda _: {"EAGAIN: busy": 1},
    "busy_ns": lambda _: 5.0,
    "record_format": lambda _: "rfc",
    "node_interval_ns": lambda _: ((0, 5),),
    "scan_path": lambda _: "dense",
    "on_refused": lambda _: "drop",
    "one_of_many": lambda _: False,
    "one_thread": lambda _: False,
    "capacity_folios": lambda _: 512,
    "ns": lambda _: 5,
    "store": lambda made: made.engines,
    "source": lambda _: Quiet(),
    "migrator": lambda _: Moves(),
    "policy": lambda _: gpuscan.Policy(),
    "verify_every_tick": lambda _: False,
    "plan_sink": lambda _: None,
    "witness": lambda _: None,
    "clocked": lambda _: None,
    "ticks": lambda _: [],
    "counts": lambda _: dict.fromkeys(gpuscan.Outcome, 1),
    "reason": lambda _: "freed",
    "dropped": lambda _: Counter({"freed": 1}),
    "rejected": lambda _: Counter({"own_node": 1}),
    "spec": lambda made: made.spec,
    "contents": lambda _: None,
    "machine": lambda made: made.machine,
    "has_vma": lambda _: True,
    "cpu_nid": lambda _: 0,
    "cpu_nids": lambda _: np.zeros(3, dtype=np.int32),
    "folios": lambda _: np.arange(3),
    "duration_ns": lambda _: 1000,
    "now_ns": lambda _: 1000,
    "observer": lambda _: None,
    "frame": lambda _: 2 * 32768,
    "ends": lambda _: np.array([1, 3]),
    "target_nids": lambda _: np.zeros(2, dtype=np.int64),
    "frames": lambda _: 2 * 32768 + np.arange(3),
    "n_pages": lambda _: np.ones(10, dtype=np.int64),
    "zone_pages.frames": lambda made: made.snapshot.frames(),
    "flags": lambda made: made.snapshot.flags,
    "mapcounts": lambda made: made.snapshot.mapcounts,
    "cgroups": lambda made: PageCgroups(("none",), np.zeros(len(made.snapshot.flags), dtype=np.uint16)),
    "kernel_release": lambda _: "6.12",
    "hz": lambda _: 250,
    "lru_gen": lambda _: False,
    "captured_at": lambda _: "2025",
    "notes": lambda _: ("a",),
    "share": lambda _: 0.5,
    "read.path": lambda _: Path("/nonexistent.zarr"),
    "name": lambda _: "m",
    "Topology.nodes": lambda made: made.store.topology.nodes,
    "distance": lambda made: made.store.topology.distance,
    "links": lambda _: {},
    "from_nid": lambda _: 0,
    "to_nid": lambda _: 1,
    "candidates": lambda _: [0, 1],
    "resolve_topology.source": lambda _: "two-socket-cxl",
    "memory_bytes": lambda _: 16 << 30,
    "name_or_path": lambda _: "uniform",
    "overrides": lambda _: ("ticks=3",),
    "workload": lambda made: made.workload,
    "snapshot": lambda _: None,
    "build_scenario.topology": lambda _: None,
    "build_scenario.device": lambda _: "no such device",  # so that no machine is filled
    "design": lambda _: "gpuscan",
    "shows": lambda _: "nothing",
    "processes": lambda made: made.workload.processes,
    **{
        name: lambda _: 5
        for name in (
            "interval_ns",
            "freq_threshold",
            "window_ns",
            "rate_limit_bytes_per_s",
            "Policy.budget_pages",
            "backoff_ticks",
            "max_attempts",
            "scan_ns",
            "examined_pages",
            "examined_bytes",
            "n_unknown_target",
            "n_superseded",
            "n_freed",
            "n_rounds",
            "n_passes",
            "n_folios",
            "n_restored",
            "n_ready",
            "n_held",
            "requested",
            "in_flight",
            "migrated",
            "superseded",
            "refreshed",
            "counted",
            "released",
            "tick",
            "seed",
        )
    },
    **{f"PageMap.{name}": attrgetter(f"store.page_map.{name}") for name in PageMap.__slots__},
    **{f"Workload.{name}": attrgetter(f"workload.{name}") for name in gpuscan.Workload.model_fields},
    "heads": lambda _: 5 * 32768 + np.arange(3),
    "addresses": lambda _: np.arange(3) << 12,
    "n_no_room": lambda _: 0,
    "orders": lambda _: np.zeros(3, dtype=np.int64),
    "process": lambda _: 0,
    "before_tick": lambda _: 5,
    "AddressMap.tick": lambda _: 5,
    "MovePagesMigrator.steward": lambda _: None,
    "MovePagesMigrator.sharing": lambda _: None,
    "traits": lambda _: np.zeros(3, dtype=np.int64),
    "fresh_ns": lambda _: 1000,
    "take.n_pages": lambda _: 5,
    "pid": lambda _: os.getppid(),
    "MovePagesMigrator.processes": lambda _: {},
    "MovePagesMigrator.addresses": lambda _: gpuscan.AddressMap(),
    "room": lambda _: gpuscan.Room(),
    "system": lambda _: HERE,
    "tiers": lambda _: None,
    "Workload.tick": lambda _: "100ms",
}


@dataclass(frozen=True)
class Entry:
    """Something to call.

    Attributes:
        owner: public class, or "" for a function.
        name: of the method or function; ``__init__`` for a constructor.
        parameters: their names.
    """

    owner: str
    name: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        called = self.owner if self.name == "__init__" else ".".join(filter(None, (self.owner, self.name)))
        return f"{called}({', '.join(self.parameters)})"

    def target(self, made: World) -> Callable[..., Any]:
        """Return what to call."""
        if not self.owner:
            function: Callable[..., Any] = getattr(gpuscan, self.name)
            return function
        if self.name == "__init__":
            return public()[self.owner]
        owner = made.objects.get(self.owner, public()[self.owner])
        return getattr(owner, self.name)

    def valid(self, made: World, parameter: str) -> Any:
        """Return a value for a parameter.

        Raises:
            LookupError: none is known.
        """
        owner = self.owner if self.name == "__init__" else self.name
        for key in (f"{owner}.{parameter}", parameter):
            if key in VALID:
                return VALID[key](made)
        raise LookupError(f"{self}: tests/surface.py has no valid value for {parameter!r}; add one to VALID")


def public() -> dict[str, Any]:
    """Return public names that can be called, and what they stand for."""
    named = {name: getattr(gpuscan, name) for name in gpuscan.__all__ if name != "__version__"}
    return {**named, **EXTRA}


def entries() -> list[Entry]:
    """List all that is to be called.

    Raises:
        LookupError: there is a name of a kind that is not known here.
    """
    listed: list[Entry] = []
    for name, thing in sorted(public().items()):
        if not inspect.isclass(thing):
            if not inspect.isfunction(thing):
                raise LookupError(f"gpuscan.{name} is neither a class nor a function")
            listed.append(Entry("", name, tuple(inspect.signature(thing).parameters)))
            continue
        if issubclass(thing, Exception | enum.Enum) or getattr(thing, "_is_protocol", False):
            continue
        if inspect.isabstract(thing):  # those that fulfil it are here
            continue
        if name not in PASSIVE:
            listed.append(Entry(name, "__init__", tuple(_names(thing))))
        for method, function in _methods(thing):
            if (name, method) not in NOT_CALLED and name not in PASSIVE:
                listed.append(Entry(name, method, tuple(_names(function))))
    return [entry for entry in listed if entry.parameters]


def _names(function: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.name not in ("self", "cls") and each.kind not in kinds]


def _methods(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield methods that gpuscan defines, inherited ones too."""
    for name in dir(thing):
        if name.startswith("_"):
            continue
        function = inspect.getattr_static(thing, name)
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and function.__module__.startswith("gpuscan"):
            yield name, function


def _scalars() -> list[Any]:
    numbers = [
        -1,
        0,
        1,
        2,
        77,
        1023,
        1 << 16,
        1 << 31,
        1 << 40,
        1 << 62,
        1 << 63,
        1 << 70,
        -(1 << 63),
        -(1 << 70),
    ]
    huge = [10**400, 10**5000, math.nan, math.inf, -math.inf, 3.7, 1e300, 1 + 2j]
    numpy = [
        np.int64(5),
        np.uint8(7),
        np.uint64(1 << 63),
        np.bool_(True),
        np.float64(2.0),
        np.datetime64("2025", "s"),
    ]
    texts = [
        "",
        "x",
        "two-socket-cxl",
        "cpu",
        "a" * 3000,
        "\0",
        "\ud800",
        b"x",
        "None",
        "-1",
        "policy.hz=0",
    ]
    others = [
        None,
        True,
        False,
        ...,
        object(),
        Anything,
        Anything,
        [],
        (),
        {},
        set(),
        [1, 2],
        (1,),
        {"a": 1},
        [[1], [1, 2]],
        range(3),
    ]
    return [*numbers, *huge, *numpy, *texts, *others]


SCALARS = _scalars()


def _whole_arrays(rng: random.Random, good: np.ndarray[Any, Any]) -> Iterator[Any]:
    """Yield arrays like a good one, and unlike it."""
    info = np.iinfo(good.dtype) if good.dtype.kind in "iu" else None
    yield good.astype(np.float64)
    yield good.astype(np.float32) + 0.5
    yield np.full(good.shape, np.nan)
    yield good.astype(object)
    yield good.astype(str) if good.size < 10_000 else good.astype("S8")
    yield good.astype(bool)
    yield good.astype(complex)
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8", ">u4", ">i2"):
        yield good.astype(dtype)
    yield good[:-1]
    yield good[:0]
    yield np.append(good, good[-1:])
    yield np.repeat(good, 2)
    yield np.repeat(good, 2)[::2]
    yield good[::-1]
    yield good.reshape(1, -1)
    yield good.reshape(-1, 1)
    yield np.array(good.flat[0]) if good.size else np.array(0)
    yield np.broadcast_to(good[:1], good.shape) if good.ndim == 1 else good
    yield np.ma.masked_array(good, mask=True)
    yield good.tolist()
    yield np.ascontiguousarray(good).data
    frozen = good.copy()
    frozen.flags.writeable = False
    yield frozen
    room = np.zeros(good.nbytes + 1, dtype=np.uint8)[1:].view(good.dtype)
    room[:] = good.ravel()
    yield room
    spoilt = good.astype(np.int64)
    if spoilt.size and info is not None:
        spoilt.flat[rng.randrange(spoilt.size)] = rng.choice(
            [-1, -(1 << 62), (1 << 62) + 1, 1 << 33, 70_000, 2_000]
        )
        yield spoilt
        edge = good.copy()
        edge.flat[rng.randrange(good.size)] = rng.choice([info.min, info.max])
        yield edge
    yield np.zeros(good.shape, dtype=[("a", "i4")])
    yield np.zeros(good.shape, dtype="datetime64[s]")


def spoil(rng: random.Random, good: Any) -> Any:
    """Return another value, often a wrong one, for a parameter whose good value is known."""
    if isinstance(good, np.ndarray) and rng.random() < 0.75:
        return rng.choice(list(_whole_arrays(rng, good)))
    if isinstance(good, tuple | list) and rng.random() < 0.4:
        return [*good, rng.choice(SCALARS)]
    if isinstance(good, dict) and rng.random() < 0.6:
        key = rng.choice([*good, *SCALARS[:8], "x"])
        return {**good, key: rng.choice(SCALARS)}
    return rng.choice(SCALARS)


def spoiled(rng: random.Random, made: World, entry: Entry) -> dict[str, Any]:
    """Return arguments that are valid but for one or two."""
    given = {name: entry.valid(made, name) for name in entry.parameters}
    for name in rng.sample(entry.parameters, k=min(len(entry.parameters), rng.choice((1, 1, 1, 2)))):
        good = given[name]
        if name == "node_mask" and entry.owner != "ScanRequest":
            good, given["nodes"] = np.ones(1024, dtype=np.uint8), None
        if name == "outcomes" and given["pfns"] is not good and rng.random() < 0.1:
            given["pfns"] = VALID["pfns"](made)
            given[name] = given["pfns"].view(np.uint8)[: len(given["pfns"])]
            continue
        given[name] = spoil(rng, good)
    return given
