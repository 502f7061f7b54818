"""Runs that checkpoints, shards and resumed runs are tried on."""

from __future__ import annotations

from dataclasses import replace

from gpuscan.topology import Topology
from gpuscan.workload.files import builtin_workloads
from machines import tiered
from runs import BUSY, Case

QUICK = "processes.0.accesses_per_gib_s=500_000"


def hint_faults(*keys: str) -> tuple[str, ...]:
    return tuple(f"producer.hint_faults.{key}" for key in keys)


def twins() -> Topology:
    """Return a machine on which a page of either CPU node may be demoted to either CXL node."""
    machine = tiered()
    distance = machine.distance.copy()
    distance[:2, 2:] = distance[2:, :2] = 30
    return replace(machine, distance=distance)


SOON = {
    "numa-rebalance": ("processes.0.move_at=200ms",),
    "ping-pong": ("producer.hint_faults.two_stage=false",),
    "phase-shift": ("processes.0.pattern.shift_every=300ms",),
}
"""What makes a built-in workload have something to do within a second."""

CASES = {
    **{
        name: Case(name, (QUICK, "producer.hint_faults.scan_size=50%", *SOON.get(name, ())))
        for name, _ in builtin_workloads()
        # pool-promote has 144 GiB at least: a checkpoint after every tick takes minutes. What cxl-interleave
        # has, cxl-promote has. Evacuation is over in a round, but for what is refused: see below.
        if name not in ("pool-promote", "cxl-interleave", "evacuate")
    },
    "a node that is drained": Case(
        "evacuate",
        (
            "processes.0.accesses_per_gib_s=2_000",
            "cost.isolation_failures=50%",
            "producer.evacuate.pass_every=500ms",
        ),
        memory="1GiB",
    ),
    "refusals and a rate": Case("phase-shift", (QUICK, *BUSY)),
    "a budget": Case(
        "cxl-promote", (QUICK, "policy.budget_pages=300", "producer.mark=record", "policy.freq_threshold=1")
    ),
    "compact records": Case(
        "cxl-promote",
        (QUICK, "producer.mark=record", "policy.record_format=pghot-compact", "policy.freq_threshold=1"),
    ),
    "huge pages": Case("cxl-promote", (QUICK, "processes.0.thp=true", *BUSY[2:4]), memory="2GiB"),
    "two stages": Case(
        "ping-pong",
        (QUICK, "producer.hint_faults.two_stage=true", "producer.hint_faults.scan_size=1GiB", "tick=1s"),
    ),
    "a pause that follows the faults": Case(
        "numa-rebalance",
        (
            QUICK,
            "processes.0.move_at=200ms",
            *BUSY[:6],
            *hint_faults("scan_period=adaptive", "scan_delay=100ms", "scan_size=64MiB"),
            *hint_faults("scan_period_min=300ms", "scan_period_max=5s", "failure_feedback=true"),
        ),
    ),
    "a threshold that moves": Case(
        "cxl-promote",
        (
            QUICK,
            *hint_faults("hot_latency=80ms", "promote_rate_limit=20MB/s", "free_memory_bypass=false"),
            *hint_faults("scan_size=20%", "scan_period=300ms"),
            *hint_faults("scan_period_min=100ms", "scan_period_max=300ms"),
            "tick=200ms",
        ),
    ),
    "a sampler": Case("cxl-promote", (QUICK, "producer.kind=sampler", "producer.sampler.period=23")),
    "accessed bits": Case(
        "cxl-promote",
        (QUICK, "producer.kind=a-bit", "producer.a_bit.walk_size=5%", "producer.a_bit.walk_period=150ms"),
    ),
    "hotness units": Case(
        "cxl-promote",
        (
            QUICK,
            "producer.kind=hotness-unit",
            "producer.hotness_unit.epoch=250ms",
            "producer.hotness_unit.list_entries=200",
            "producer.hotness_unit.interleave_ways=2",
            "producer.hotness_unit.interrupt_at=90%",
            "producer.hotness_unit.downsampling=2",
        ),
    ),
    "one thread": Case(
        "phase-shift",
        (QUICK, *hint_faults("scan_size=1GiB"), "policy.one_thread=true", *SOON["phase-shift"]),
        topology=twins(),
    ),
    "kswapd draws among nodes": Case(
        "phase-shift", (QUICK, *hint_faults("scan_size=1GiB"), *SOON["phase-shift"]), topology=twins()
    ),
}
