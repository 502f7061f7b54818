"""What processes ask of a machine's links, and how long an access takes there: a closed queueing network.

A process with a demand has a fixed number of requests under way, so a slow answer means fewer requests: what
is asked of a link and its latency follow from each other. This finds the point at which both agree. There is
one: the more a link is asked, the longer it takes, and the longer it takes, the less is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuscan.base.errors import InputError
from gpuscan.sim.spec import DemandSpec
from gpuscan.topology.model import Link

Ends = tuple[int, int]
"""A link: node of the CPU, node of the memory."""

_SWEEPS_MAX, _HALVINGS = 200, 48
_AGREES = 1e-9
"""Relative change of a latency from one sweep to the next at which the links agree."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was asked, and what came of it.

    Attributes:
        latency_ns: of an access, by link.
        asked_bytes_per_s: by link.
        requests_per_s: answered, by process.
    """

    latency_ns: Mapping[Ends, float]
    asked_bytes_per_s: Mapping[Ends, float]
    requests_per_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Asker:
    demand: DemandSpec
    shares: Mapping[Ends, float]

    def requests_per_s(self, latency_ns: Mapping[Ends, float]) -> float:
        """Return how many are answered: Little's law."""
        mean_ns = sum(share * latency_ns[ends] for ends, share in self.shares.items())
        return self.demand.in_flight * 1e9 / (self.demand.think_ns + mean_ns)

    def asks(self, ends: Ends, latency_ns: Mapping[Ends, float]) -> float:
        """Return bytes a second that it asks of a link."""
        share = self.shares.get(ends, 0.0)
        return share and self.requests_per_s(latency_ns) * share * self.demand.access_bytes


def traffic_of(
    links: Mapping[Ends, Link], asked: Sequence[tuple[str, DemandSpec | None, Mapping[Ends, int]]]
) -> Traffic:
    """Return what flows.

    Args:
        links: of the machine.
        asked: name and demand of each process that has one, and how its accesses are spread over links.

    Raises:
        InputError: a link is used that the topology does not know.
    """
    askers: dict[str, _Asker] = {}
    for name, demand, counts in asked:
        total = sum(counts.values())
        if demand is not None and total:
            askers[name] = _Asker(demand, {ends: count / total for ends, count in counts.items()})
    used = sorted({ends for asker in askers.values() for ends in asker.shares})
    for ends in used:
        if ends not in links:
            raise InputError(
                f"a process with a demand uses the memory of node {ends[1]} from node {ends[0]}, and the "
                "topology has no link for that; add it to [[links]], or leave out the demand"
            )
    latency_ns = {ends: links[ends].latency_ns for ends in used}
    for _ in range(_SWEEPS_MAX):
        change = 0.0
        for ends in used:
            before = latency_ns[ends]
            latency_ns[ends] = _agreed_ns(links[ends], ends, list(askers.values()), latency_ns)
            change = max(change, abs(latency_ns[ends] - before) / before)
        if change < _AGREES:
            break
    flows = {ends: sum(asker.asks(ends, latency_ns) for asker in askers.values()) for ends in used}
    served = {name: asker.requests_per_s(latency_ns) for name, asker in askers.items()}
    return Traffic(latency_ns, flows, served)


def _agreed_ns(link: Link, ends: Ends, askers: Sequence[_Asker], latency_ns: Mapping[Ends, float]) -> float:
    """Return the latency of one link at which what is asked of it agrees with it, the others as they are."""
    loaded = link.loaded
    if loaded is None:
        return link.latency_ns
    # Of who asks: bytes a second with an answer in 1 ns, what else an access takes, the share that goes here.
    parts = []
    for asker in askers:
        share = asker.shares.get(ends, 0.0)
        if share:
            elsewhere = sum(part * latency_ns[other] for other, part in asker.shares.items() if other != ends)
            bytes_ns = asker.demand.in_flight * 1e9 * share * asker.demand.access_bytes
            parts.append((bytes_ns, asker.demand.think_ns + elsewhere, share))
    capacity = loaded.capacity_bytes_per_s
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        each_ns = link.latency_ns + loaded.wait_ns(middle * capacity)
        if (
            sum(bytes_ns / (rest_ns + share * each_ns) for bytes_ns, rest_ns, share in parts)
            > middle * capacity
        ):
            low = middle
        else:
            high = middle
    return link.latency_ns + loaded.wait_ns(low * capacity)
