"""Marks from walks over page tables: what a thread that tests and clears accessed bits would ask for.

The bit does not say who accessed the page, and ``pghot_record_access()`` wants a node. Guessed: the
node that the process ran on last. (kscand's guess, the top-tier node that holds most of the
process's accessed pages, tends to one node for all of it, too.) Each guess is scored against the node of the
last access, which the simulator knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gpuscan.base.values import Memory, TimeNs, bytes_of
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.options import Options
from gpuscan.producers.source import Producer
from gpuscan.sim.accessed_bits import ABitSpec, AccessedBits
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.topology.model import Topology

_SPEC = ABitSpec()


class ABitOptions(Options):
    """Walks over page tables, see :class:`gpuscan.sim.accessed_bits.ABitSpec`."""

    walk_size: Memory = _SPEC.walk_bytes
    walk_period: Annotated[TimeNs, Field(gt=0)] = _SPEC.walk_period_ns
    pte_cost: TimeNs = int(_SPEC.pte_ns)

    def spec(self, topology: Topology) -> ABitSpec:
        """See :class:`gpuscan.producers.options.Options`."""
        return ABitSpec(bytes_of(self.walk_size, topology.memory_bytes), self.walk_period, self.pte_cost)

    def turns_ns(self) -> dict[str, int]:
        """Return the pause between two walks."""
        return {"walk_period": self.walk_period}


class AccessedBitSource(Producer):
    """A thread that walks page tables.

    Adds to the machine's metrics: ``ptes_walked``; ``ptes_accessed`` of them; ``guessed_right`` and
    ``guessed_wrong``, of those, targets as they would be with the node of the last access known, or not;
    ``seen_top_tier``, ``seen_no_target``, ``seen_at_home`` and ``marks``.

    Args:
        machine: where time passes.
        spec: of the walks.
    """

    def __init__(self, machine: SimulatedMachine, spec: ABitSpec) -> None:
        super().__init__(machine)
        self._spec = spec
        lower_tier = machine.spec.hint_faults.only_lower_tier
        walked = ~machine.top_tier if lower_tier else np.ones_like(machine.top_tier)
        self._bits = AccessedBits(spec, machine.space, machine.page_map.section_nid, walked.astype(np.uint8))

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`gpuscan.producers.source.Producer`."""
        elapsed = self._machine.run(now_ns, duration_ns, self._bits)
        found = self._bits.take()
        targets = self._target[found.guessed_nids]
        counted: dict[str, float] = {
            "ptes_walked": found.n_walked,
            "ptes_accessed": len(found.folios),
            **self._score(targets, found.true_nids),
            "producer_cost_ns": found.n_walked * self._spec.pte_ns,
        }
        return self._observed(found.folios, targets, found.guessed_nids, found.at_ns, elapsed, counted)

    def state(self) -> dict[str, Any]:
        """See :class:`gpuscan.producers.source.Producer`."""
        return {"bits": self._bits.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`gpuscan.producers.source.Producer`."""
        self._bits.restore(state["bits"], self._machine.sizes())


PRODUCER = ProducerKind(
    about="a thread that walks page tables and tests and clears accessed bits, as kscand",
    options=ABitOptions,
    make=AccessedBitSource,
    told=(
        Told("ptes_walked", "PTEs"),
        Told("guessed_right", "of nodes guessed right", ("guessed_right", "guessed_wrong")),
    ),
)
