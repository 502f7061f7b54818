"""Drain a node: every folio on it is marked, each for the nearest node that has room for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpuscan.base import documents as checked
from gpuscan.base.documents import TIME_NS_MAX
from gpuscan.base.errors import InputError
from gpuscan.base.values import TimeNs
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.options import Options
from gpuscan.producers.source import Producer
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.observer import SeesAccesses
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import ProducerSpec
from gpuscan.topology.evacuation import NO_ROOM, nearest_first, share_out
from gpuscan.topology.model import Topology

LAST_NODE = -1
"""In place of a node: the one with memory that has the highest number."""


_PASS_EVERY_NS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class EvacuationSpec(ProducerSpec):
    """The draining of a node.

    Attributes:
        nid: the node.
        pass_every_ns: from one pass over what is left to the next. A folio that was refused four times
            in a row, as by default, has been given up by then, and is asked for again.
    """

    kind = "evacuate"

    nid: int
    pass_every_ns: int = _PASS_EVERY_NS


class EvacuateOptions(Options):
    """What is drained, see :class:`EvacuationSpec`."""

    node: Annotated[int, Field(ge=LAST_NODE, lt=N_NODES_MAX)] = LAST_NODE
    pass_every: Annotated[TimeNs, Field(gt=0)] = _PASS_EVERY_NS

    def spec(self, topology: Topology) -> EvacuationSpec:
        """See :class:`gpuscan.producers.options.Options`.

        Raises:
            InputError: the node is not there or has no memory, or there is nowhere to go.
        """
        with_memory = [node.nid for node in topology.nodes if node.present_pages]
        nid = max(with_memory) if self.node == LAST_NODE else self.node
        if nid not in with_memory:
            some = ", ".join(map(str, with_memory[:8])) + ", ..." * (len(with_memory) > 8)
            raise InputError(
                f"producer.evacuate.node: topology {topology.name} has no node {nid} with memory; "
                f"name one that has: {some}"
            )
        if not nearest_first(topology, nid):
            raise InputError(
                f"producer.evacuate.node: from node {nid} of topology {topology.name} no other memory is in "
                "reach; name another, or take a machine with more nodes"
            )
        return EvacuationSpec(nid, self.pass_every)

    def turns_ns(self) -> dict[str, int]:
        """Return nothing: no loop is begun for it."""
        return {}


class _Unwatched(SeesAccesses):
    """Sees nothing: who is drained does not depend on who is used."""

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""


class EvacuationSource(Producer):
    """Drains a node.

    Adds to the machine's metrics, in base pages: ``drain_pages``, that were on the node or came to it;
    ``drained_pages``, that left it; ``left_no_room_pages`` and ``left_asked_pages``, that are there still,
    since no node has room for them, or though they were asked for: they wait, or were refused, for the
    reasons that a report lists. The last two are counted as changes, so that their sums over a run are
    what is left at its end. ``marks`` are folios.

    Args:
        machine: where time passes.
        spec: what to drain.
    """

    def __init__(self, machine: SimulatedMachine, spec: EvacuationSpec) -> None:
        super().__init__(machine)
        self._spec = spec
        topology = machine.topology
        self._targets = nearest_first(topology, spec.nid)
        with_cpus = [node.nid for node in topology.nodes if node.cpus]
        nearest = topology.nearest(spec.nid, with_cpus)
        self._reporter = with_cpus[0] if nearest is None else nearest
        self._there = np.zeros(machine.space.n_folios, dtype=np.bool_)
        self._next_pass_ns = 0
        self._n_no_room = 0
        self._left = {"left_no_room_pages": 0, "left_asked_pages": 0}

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`gpuscan.producers.source.Producer`."""
        machine, space = self._machine, self._machine.space
        elapsed = machine.run(now_ns, duration_ns, _Unwatched())
        there = machine.page_map.section_nid[space.frame_of // SECTION_PAGES] == self._spec.nid
        came, went = np.flatnonzero(there & ~self._there), np.flatnonzero(self._there & ~there)
        self._there = there
        folios = np.flatnonzero(there)
        frames, n_pages = space.frame_of[folios].astype(np.int64), self._pages_of(folios)
        targets = np.empty(0, dtype=np.int32)
        if now_ns >= self._next_pass_ns:
            self._next_pass_ns = now_ns + self._spec.pass_every_ns
            order = np.argsort(frames)
            frames, n_pages = frames[order], n_pages[order]
            rooms = {nid: max(0, machine.frames.most_above(nid, "high")) for nid in self._targets}
            targets = share_out(n_pages, rooms)
            self._n_no_room = int(n_pages[targets == NO_ROOM].sum())
        n_left = int(n_pages.sum())
        no_room = min(self._n_no_room, n_left)
        left = {"left_no_room_pages": no_room, "left_asked_pages": n_left - no_room}
        asked = targets != NO_ROOM
        metrics = {
            **elapsed.metrics,
            "drain_pages": int(self._pages_of(came).sum()),
            "drained_pages": int(self._pages_of(went).sum()),
            **{name: n - self._left[name] for name, n in left.items()},
            "producer_cost_ns": 0.0,
            "marks": int(asked.sum()),
        }
        self._left = left
        marked, targets = frames[: len(asked)][asked], targets[asked]
        return Observed(
            machine.page_map.pfn_of_flat(marked),
            np.full(len(marked), self._reporter, dtype=np.int32),
            np.full(len(marked), self._spec.nid, dtype=np.int32),
            targets,
            np.ones(len(marked), dtype=np.bool_),
            None,
            elapsed.events,
            metrics,
        )

    def _pages_of(self, folios: NDArray[np.int64]) -> NDArray[np.int64]:
        n_pages: NDArray[np.int64] = np.int64(1) << self._machine.space.orders_of(folios)
        return n_pages

    def state(self) -> dict[str, Any]:
        """Return who is on the node, and how far the passes are."""
        return {
            "there": self._there.view(np.uint8),
            "next_pass_ns": self._next_pass_ns,
            "n_no_room": self._n_no_room,
            "left": dict(self._left),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of.

        Raises:
            ValueError: it was of another machine's.
        """
        found = checked.table(state, "evacuate", ("there", "next_pass_ns", "n_no_room", "left"))
        there = checked.array(
            found["there"], np.uint8, "there", n=self._machine.space.n_folios, lowest=0, end=2
        )
        left = checked.table(found["left"], "left", tuple(self._left))
        n_pages = self._machine.page_map.n_pages
        self._there = there.astype(np.bool_)
        self._next_pass_ns = checked.whole(found["next_pass_ns"], 0, TIME_NS_MAX, "next_pass_ns")
        self._n_no_room = checked.whole(found["n_no_room"], 0, n_pages, "n_no_room")
        self._left = {name: checked.whole(value, 0, n_pages, name) for name, value in left.items()}


PRODUCER = ProducerKind(
    about="a node that is drained: all its pages, each for the nearest node with room",
    options=EvacuateOptions,
    make=EvacuationSource,
    told=(
        Told("drain_pages", "pages on the node"),
        Told("drained_pages", "drained", ("drain_pages",)),
        Told("left_no_room_pages", "left for want of room", ("drain_pages",), if_any=True),
        Told("left_asked_pages", "left though asked for", ("drain_pages",), if_any=True),
    ),
)
