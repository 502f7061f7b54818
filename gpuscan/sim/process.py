"""A process: its mappings, its pattern, and the moments at which something changes for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from gpuscan.base.errors import InputError
from gpuscan.sim.address_space import Mapping
from gpuscan.sim.patterns import Pattern
from gpuscan.sim.spec import ProcessSpec
from gpuscan.topology.model import Topology

_TURN_ACCESSES = 1 << 12
"""Accesses that tasks on one node make before those on the next: small against the accesses of
a tick, so that no node is always the first to touch what was just unmapped."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Accesses of a process from one node, with one hot set and one state of its page table.

    Attributes:
        start_ns, end_ns: when; tasks on several nodes share the time and take turns in it.
        cpu_nid: where its tasks run.
        first_access, n_accesses: number of its first access since time 0, and how many.
        visit_due: whoever watches the process's page table comes by at ``start_ns``.
    """

    start_ns: int
    end_ns: int
    cpu_nid: int
    first_access: int
    n_accesses: int
    visit_due: bool


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a simulated machine.

    Attributes:
        spec: what was asked for.
        mappings: its virtual folios, gapless.
        pattern: draws its accesses.
        turn, n_turns: its place among the processes, whose visits take turns within a period.
    """

    spec: ProcessSpec
    mappings: tuple[Mapping, ...]
    pattern: Pattern
    turn: int = 0
    n_turns: int = 1

    @property
    def first_folio(self) -> int:
        """Its first virtual folio."""
        return self.mappings[0].first_folio

    @property
    def n_folios(self) -> int:
        """Its virtual folios."""
        return sum(mapping.n_folios for mapping in self.mappings)

    def visits_ns(self, start_ns: int, end_ns: int, period_ns: int) -> range:
        """Return when in ``[start_ns, end_ns)`` a visitor comes by every ``period_ns`` (0: never)."""
        return _multiples(start_ns, end_ns, period_ns, period_ns * self.turn // self.n_turns)

    def cpu_nids(self, now_ns: int) -> tuple[int, ...]:
        """Return the nodes its tasks run on at a moment."""
        nids = self.spec.cpu_nids
        if self.spec.rotate_every_ns:
            return (nids[now_ns // self.spec.rotate_every_ns % len(nids)],)
        if self.spec.move_at_ns and len(nids) > 1:
            return (nids[1] if self.spec.move_at_ns <= now_ns else nids[0],)
        return nids

    def accesses_until(self, now_ns: int) -> int:
        """Return how many accesses it made before a moment; access k happens at ``access_ns(k)``."""
        return math.floor(self.spec.accesses_per_s * now_ns / 1e9)

    def stretches(self, start_ns: int, end_ns: int, visits_ns: Iterable[int] = ()) -> Iterator[Stretch]:
        """Cut ``[start_ns, end_ns)`` wherever something changes, and at the visits, which lie inside."""
        visits = set(visits_ns)
        cuts = {start_ns, end_ns, *visits}
        cuts.update(_multiples(start_ns, end_ns, self.spec.rotate_every_ns))
        cuts.update(_multiples(start_ns, end_ns, self.spec.pattern.shift_every_ns))
        if start_ns < self.spec.move_at_ns < end_ns:
            cuts.add(self.spec.move_at_ns)
        edges = sorted(cuts)
        for start, end in pairwise(edges):
            first = self.accesses_until(start)
            n_accesses = self.accesses_until(end) - first
            visit_due = start in visits
            for nid, turn_first, turn_end in _turns(self.cpu_nids(start), first, first + n_accesses):
                yield Stretch(start, end, nid, turn_first, turn_end - turn_first, visit_due)
                visit_due = False


def _turns(nids: tuple[int, ...], first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Deal accesses ``[first, end)`` out to nodes: (nid, first, end) per turn, one turn if there are none."""
    if len(nids) == 1 or first == end:
        yield nids[0], first, end
        return
    while first < end:
        turn = first // _TURN_ACCESSES
        turn_end = min(end, (turn + 1) * _TURN_ACCESSES)
        yield nids[turn % len(nids)], first, turn_end
        first = turn_end


def check_process(spec: ProcessSpec, topology: Topology) -> None:
    """Check what only the machine can tell.

    Raises:
        InputError: no folio fits, no CPU node is given, or a node has no CPUs.
        TopologyError: a node is not there.
    """
    if spec.n_pages >> spec.order == 0:
        raise InputError(
            f"process {spec.name!r} has {spec.n_pages} pages, less than one folio of order {spec.order}; "
            "give it more memory"
        )
    if not spec.cpu_nids:
        raise InputError(f"process {spec.name!r} runs nowhere; name at least one node with CPUs in cpu_nids")
    for nid in spec.cpu_nids:
        if not topology.node(nid).cpus:
            raise InputError(
                f"process {spec.name!r} runs on node {nid}, which has no CPUs; choose another node"
            )
    for nid, _ in spec.placement:
        topology.node(nid)


def _multiples(start: int, end: int, step: int, phase: int = 0) -> range:
    """Return ``phase + k * step`` inside ``[start, end)``; none for step 0."""
    if step <= 0:
        return range(0)
    first = phase + max(0, -(-(start - phase) // step)) * step
    return range(first, end, step)
