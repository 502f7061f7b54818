"""GUPS on two tiers beside a memory antagonist, under a placement policy: the bed of Colloid's figures.

What is on the machine and how it is driven is the SOSP'24 artifact's: ``apps/gups/gups-opt.c`` (72 GiB, of
them 20 GiB hot that take 90 % of the accesses; a line of 64 bytes is read and written back),
``sosp24-artifact/hemem/run_fig6.sh`` (15 cores; the antagonist on 0, 5, 10 or 15 cores, half reads and half
writes, on the default tier; 100 s, of which the last 30 count), ``hemem/test.md`` (the sizes of both tiers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.migrate.placement import PlacementPolicy, Tiers
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.observer import SeesAccesses
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import DemandSpec, HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.sim.traffic import traffic_of
from gpuscan.topology.model import Topology
from gpuscan.topology.toml import parse_toml

FAST, SLOW = 0, 1
GUPS, ANTAGONIST = "gups", "antagonist"
GUPS_CORES = 15
_LINE_BYTES = 128
"""A line read and written back."""
_WORKING_SET_BYTES = 77_309_411_328
_HOT_BYTES = 21_474_836_480
_HOT_ACCESSES = 0.9
_FAST_BYTES, _SLOW_BYTES = 33_820_770_304, 101_466_505_216
_ANTAGONIST_BYTES = 64 << 20
_SAMPLES_PER_S = 105_783
"""What HeMem samples in a second (``total_samples`` of ``hemem/test.md``)."""
_STEP_NS = 1_000_000_000
_STEPS, _COUNTED = 100, 30
_MOVED_BYTES_PER_S = 1 << 30
_COOLS = 0.8
"""Of what was counted, the part that is left after a step."""

UNLOADED_NS = 70.0
BANDWIDTH = 204.8e9
"""Of eight channels of DDR4-3200."""
QUEUE_NS, CAPACITY = 54.0, 180e9
GUPS_IN_FLIGHT = 4.41
ANTAGONIST_IN_FLIGHT = 23.6
"""Requests under way of a core; how these and the queue were found: :mod:`.built_in.colloid_gups`."""

_MACHINE = """\
name = "colloid"
distances = ["10 21", "21 10"]
[[nodes]]
nid = 0
cpus = "0-31"
{fast}
[[nodes]]
nid = 1
tier = 1
{slow}
[[links]]
initiator = 0
memory = 0
latency = "{unloaded}ns"
bandwidth = "204.8GB/s"
loaded = {{ queue = "{queue}ns", capacity = "{capacity}B/s" }}
[[links]]
initiator = 0
memory = 1
latency = "{slow_ns}ns"
bandwidth = "75GB/s"
loaded = {{ queue = "{queue}ns", capacity = "{capacity}B/s" }}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What runs.

    Attributes:
        antagonist_cores: beside GUPS.
        slow_ns: unloaded latency of the alternate tier.
        order: of GUPS's folios.
        scale: memory is divided by it; rates are not.
        think_ns: of an access of GUPS, beside the memory's latency.
    """

    antagonist_cores: int
    slow_ns: float = 135.0
    order: int = 9
    scale: int = 1
    think_ns: float = 0.0


class _Heat(SeesAccesses):
    """Counts the accesses of one process by folio."""

    def __init__(self, name: str, n_folios: int) -> None:
        self._name = name
        self.counts: NDArray[np.float64] = np.zeros(n_folios)

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        if process.spec.name == self._name:
            self.counts += np.bincount(folios, minlength=len(self.counts))


def topology_of(load: Load) -> Topology:
    """Return the machine: node 0 is the default tier, node 1, another socket there, the alternate."""

    def memory(first_gib: int, n_bytes: int) -> str:
        # Both tiers are devices of their own there, without the kernel's watermarks.
        start = first_gib << 30 >> PAGE_SHIFT
        marks = "watermarks = { min = 0, low = 0, high = 0, promo = 0 }\nlowmem_reserve = [0, 0, 0, 0, 0]"
        pages = n_bytes // load.scale >> PAGE_SHIFT + 9 << 9
        present = f"present = [[{start}, {start + pages}]]\nmanaged_pages = {pages}"
        return f'[[nodes.zones]]\nname = "Normal"\n{present}\n{marks}'

    text = _MACHINE.format(
        fast=memory(4, _FAST_BYTES + _ANTAGONIST_BYTES * load.scale),
        slow=memory(64, _SLOW_BYTES),
        unloaded=UNLOADED_NS,
        queue=QUEUE_NS,
        capacity=CAPACITY,
        slow_ns=load.slow_ns,
    )
    return parse_toml(text, "the machine of colloid-gups")


def machine_of(load: Load, seed: int) -> SimulatedMachine:
    """Return the machine with GUPS, cold memory in the default tier first, as it was allocated."""
    hot = _HOT_BYTES / _WORKING_SET_BYTES
    # The pattern draws its rest from all pages, the hot ones among them.
    hot_accesses = (_HOT_ACCESSES - hot) / (1 - hot)
    n_pages = _WORKING_SET_BYTES // load.scale >> PAGE_SHIFT + 9 << 9
    gups = ProcessSpec(
        GUPS,
        n_pages,
        (FAST,),
        _SAMPLES_PER_S,
        ((FAST, 1.0),),
        load.order,
        pattern=PatternSpec("zipf", hot, hot_accesses, skew=0.0, scattered=False),
        demand=DemandSpec(GUPS_CORES * GUPS_IN_FLIGHT, _LINE_BYTES, load.think_ns),
    )
    processes = [gups]
    if load.antagonist_cores:
        in_flight = load.antagonist_cores * ANTAGONIST_IN_FLIGHT
        antagonist = ProcessSpec(
            ANTAGONIST,
            _ANTAGONIST_BYTES >> PAGE_SHIFT,
            (FAST,),
            1_000.0,
            ((FAST, 1.0),),
            pattern=PatternSpec("scan"),
            demand=DemandSpec(in_flight, _LINE_BYTES),
        )
        processes.insert(0, antagonist)
    hint_faults = HintFaultSpec(scan_period_ns=0)
    spec = MachineSpec(tuple(processes), hint_faults, demotion=False, seed=seed)
    return SimulatedMachine(topology_of(load), spec)


def antagonist_alone(cores: int) -> float:
    """Return the bytes a second that the antagonist takes where nothing else runs."""
    topology = topology_of(Load(cores))
    demand = DemandSpec(cores * ANTAGONIST_IN_FLIGHT, _LINE_BYTES)
    traffic = traffic_of(topology.links, [(ANTAGONIST, demand, {(FAST, FAST): 1})])
    return traffic.asked_bytes_per_s[FAST, FAST]


@dataclass(frozen=True, slots=True)
class Reached:
    """How a run ended: means of the last 30 steps.

    Attributes:
        updates_per_s: of GUPS.
        fast_ns, slow_ns: latencies; the slow one is the unloaded where nobody uses it.
        fast_share: of GUPS's accesses, served by the default tier.
        n_moved: folios, in all.
    """

    updates_per_s: float
    fast_ns: float
    slow_ns: float
    fast_share: float
    n_moved: int


def run_gups(load: Load, policy: PlacementPolicy, seed: int) -> Reached:
    """Run GUPS for 100 s, the policy deciding once a second."""
    machine = machine_of(load, seed)
    gups = next(process for process in machine.processes if process.spec.name == GUPS)
    migrator = SimulatedMigrator(machine)
    mine = slice(gups.first_folio, gups.first_folio + gups.n_folios)
    heat = _Heat(GUPS, gups.n_folios)
    folio_pages = 1 << load.order
    n_move_max = (_MOVED_BYTES_PER_S // load.scale >> PAGE_SHIFT) // folio_pages
    n_moved, counted = 0, []
    for step in range(_STEPS):
        elapsed = machine.run(step * _STEP_NS, _STEP_NS, heat)
        traffic = elapsed.traffic
        assert traffic is not None
        links = machine.topology.links
        fast_ns, slow_ns = (
            traffic.latency_ns.get((FAST, nid), links[FAST, nid].latency_ns) for nid in (FAST, SLOW)
        )
        frames = machine.space.frame_of[mine].astype(np.int64)
        on_fast = machine.page_map.nid_of_flat(frames) == FAST
        free = machine.frames.free_pages(FAST) // folio_pages
        tiers = Tiers(heat.counts, on_fast, free, n_move_max, fast_ns, slow_ns)
        if step >= _STEPS - _COUNTED:
            counted.append((traffic.requests_per_s[GUPS], fast_ns, slow_ns, tiers.fast_share))
        moves = policy.decide(tiers)
        for folios, nid in ((moves.down, SLOW), (moves.up, FAST)):
            pfns = machine.page_map.pfn_of_flat(frames[folios])
            result = migrator.migrate(nid, pfns, np.full(len(pfns), folio_pages, dtype=np.int64))
            n_moved += int((result.status == 0).sum())
        heat.counts *= _COOLS
    means = np.mean(counted, axis=0)
    updates_per_s, fast_ns, slow_ns, share = map(float, means)
    return Reached(updates_per_s, fast_ns, slow_ns, share, n_moved)
