"""What processes ask of links, and what that makes of the latency."""

from __future__ import annotations

from typing import Any

import pytest

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import DemandSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.sim.traffic import traffic_of
from gpuscan.topology.model import Link, LoadedLatency, Topology
from gpuscan.topology.serialize import topology_from_dict, topology_to_dict
from gpuscan.topology.toml import parse_toml, to_toml

LOADED = Link(70.0, 205e9, LoadedLatency(54.0, 180e9))
FAR = Link(135.0, 75e9)
LINKS = {(0, 0): LOADED, (0, 1): FAR}

MACHINE = """
distances = ["10 20", "20 10"]
[[nodes]]
nid = 0
cpus = "0-3"
memory = "256MiB"
[[nodes]]
nid = 1
kind = "cxl"
memory = "256MiB"
[[links]]
initiator = 0
memory = 0
latency = "70ns"
bandwidth = "205GB/s"
{loaded}
[[links]]
initiator = 0
memory = 1
latency = "135ns"
bandwidth = "75GB/s"
"""
CURVE = 'loaded = { queue = "54ns", capacity = "180GB/s" }'


def machine(loaded: str, demand: DemandSpec | None) -> SimulatedMachine:
    process = ProcessSpec(
        "gups", 20_000, (0,), 50_000.0, ((0, 0.5), (1, 0.5)), pattern=PatternSpec("uniform"), demand=demand
    )
    topology: Topology = parse_toml(MACHINE.format(loaded=loaded), "a test")
    return SimulatedMachine(topology, MachineSpec((process,), seed=3))


@pytest.mark.parametrize("in_flight", [1, 60, 500, 100_000])
def test_what_is_asked_and_the_latency_agree(in_flight: float) -> None:
    near = DemandSpec(in_flight, 128)
    both = DemandSpec(20, 64, think_ns=40.0)
    found = traffic_of(LINKS, [("near", near, {(0, 0): 1}), ("both", both, {(0, 0): 3, (0, 1): 1})])
    near_ns, far_ns = found.latency_ns[0, 0], found.latency_ns[0, 1]
    assert far_ns == 135.0
    assert found.requests_per_s["near"] == pytest.approx(in_flight * 1e9 / near_ns)
    mean_ns = 0.75 * near_ns + 0.25 * far_ns
    assert found.requests_per_s["both"] == pytest.approx(20e9 / (40 + mean_ns))
    asked = found.requests_per_s["near"] * 128 + found.requests_per_s["both"] * 0.75 * 64
    assert found.asked_bytes_per_s[0, 0] == pytest.approx(asked)
    assert asked < 180e9
    assert near_ns == pytest.approx(70 + 54 * asked / (180e9 - asked), rel=1e-6)


def test_a_curve_is_felt_only_by_who_asks() -> None:
    asks = DemandSpec(200, 128)
    plain = machine("", None).run(0, 10**9)
    assert plain.traffic is None
    assert machine(CURVE, None).run(0, 10**9).metrics == plain.metrics
    assert machine("", asks).run(0, 10**9).metrics == plain.metrics
    felt = machine(CURVE, asks).run(0, 10**9)
    assert felt.traffic is not None
    n_near = felt.metrics["accesses_fast"]
    n_far = felt.metrics["accesses"] - n_near
    total_ns = n_near * felt.traffic.latency_ns[0, 0] + n_far * 135.0
    assert felt.metrics["mean_latency_ns"] == pytest.approx(total_ns / felt.metrics["accesses"])
    assert felt.metrics["mean_latency_ns"] > plain.metrics["mean_latency_ns"] + 5


def test_a_link_that_nobody_described_is_an_error() -> None:
    with pytest.raises(InputError, match=r"memory of node 1 from node 0.*\[\[links\]\]"):
        traffic_of({(0, 0): LOADED}, [("gups", DemandSpec(1), {(0, 1): 1})])


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ('loaded = { queue = "54ns" }', r"links\.0\.loaded\.capacity"),
        ('loaded = { queue = "0ns", capacity = "180GB/s" }', r"links\.0\.loaded\.queue.*not above 0"),
        ('loaded = { queue = "54ns", capacity = "180" }', r"links\.0\.loaded\.capacity"),
        (
            'loaded = { queue = "54ns", capacity = "180GB/s", knee = 1 }',
            r"knee.*choose one of queue, capacity",
        ),
        ("loaded = 3", r"links\.0\.loaded"),
    ],
)
def test_a_curve_is_checked(loaded: str, said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        parse_toml(MACHINE.format(loaded=loaded), "a test")


def test_a_snapshot_keeps_a_curve_and_is_as_before_without() -> None:
    topology = parse_toml(MACHINE.format(loaded=CURVE), "a test")
    document = topology_to_dict(topology)
    assert topology_from_dict(document).links == topology.links
    assert set(document["links"][1]) == {"initiator", "memory", "latency_ns", "bandwidth_bytes_per_s"}
    damage: Any
    for damage in ({"queue_ns": 54.0}, {"queue_ns": -1.0, "capacity_bytes_per_s": 1e9}, None, []):
        document["links"][0]["loaded"] = damage
        with pytest.raises(TopologyError, match="damaged"):
            topology_from_dict(document)


def test_a_curve_is_written_and_read() -> None:
    topology = parse_toml(MACHINE.format(loaded=CURVE), "a test")
    assert topology.links[0, 0].loaded == LoadedLatency(54.0, 180e9)
    assert topology.links[0, 1].loaded is None
    assert parse_toml(to_toml(topology), "a test").links == topology.links
