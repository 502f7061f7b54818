"""What all producers on a simulated machine have in common: targets, what they saw, and what it cost.

A producer turns accesses into marks. It has an observer (:mod:`gpuscan.sim.observer`) that sees what its
original could see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import instance
from gpuscan.engine.stages import Produced, Sampled
from gpuscan.producers.contract import Observed
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.machine import Elapsed, SimulatedMachine

NOBODY = -1


class Producer(ABC):
    """A :class:`gpuscan.engine.stages.Source` that runs a simulated machine.

    Adds to the machine's metrics ``marks`` and ``producer_cost_ns``: CPU time that the producer takes
    from the machine, modelled: what it counted times a cost that its options give. It slows nobody down.

    Args:
        machine: where time passes.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        instance("a producer's machine", machine, SimulatedMachine, "give a gpuscan.SimulatedMachine")
        self._machine = machine
        self._target = np.full(N_NODES_MAX, NOBODY, dtype=np.int32)
        for process in machine.processes:
            for nid in process.spec.cpu_nids:
                home = machine.home_nid(nid)
                self._target[nid] = NOBODY if home is None else home

    @abstractmethod
    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return all that was seen."""

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return marks for what was seen."""
        seen = self.observe(now_ns, duration_ns)
        mark = self._machine.spec.hint_faults.mark
        produced = Produced(mark, seen.pfns[seen.wanted], seen.target_nids[seen.wanted])
        return Sampled((produced,) if len(produced.pfns) else (), seen.events, seen.metrics)

    def _observed(
        self,
        folios: NDArray[np.int64],
        targets: NDArray[np.int32],
        cpu_nids: NDArray[np.int32],
        at_ns: NDArray[np.int64] | None,
        elapsed: Elapsed,
        counted: dict[str, float],
        counts: NDArray[np.int64] | None = None,
    ) -> Observed:
        """Return what was seen of folios, wanted where their target is another node.

        With ``only_lower_tier``, never on the top tier. Adds the metrics ``seen_top_tier``,
        ``seen_no_target`` and ``seen_at_home``, those that are not wanted, and ``marks``.
        """
        machine = self._machine
        frames = machine.space.frame_of[folios].astype(np.int64)
        own = machine.page_map.nid_of_flat(frames)
        top_tier = machine.top_tier[own]
        if not machine.spec.hint_faults.only_lower_tier:
            top_tier = np.zeros_like(top_tier)
        nowhere, at_home = targets == NOBODY, targets == own
        wanted = ~top_tier & ~nowhere & ~at_home
        metrics = {
            **elapsed.metrics,
            **counted,
            "seen_top_tier": int(top_tier.sum()),
            "seen_no_target": int((~top_tier & nowhere).sum()),
            "seen_at_home": int((~top_tier & ~nowhere & at_home).sum()),
            "marks": int(wanted.sum()),
        }
        pfns = machine.page_map.pfn_of_flat(frames)
        return Observed(pfns, cpu_nids, own, targets, wanted, at_ns, elapsed.events, metrics, counts=counts)

    def _score(self, targets: NDArray[np.int32], true_nids: NDArray[np.int32]) -> dict[str, float]:
        """Compare guessed targets with those that the nodes of the last accesses have."""
        known = true_nids != NOBODY
        right = targets[known] == self._target[true_nids[known]]
        return {"guessed_right": int(right.sum()), "guessed_wrong": int((~right).sum())}

    def finished(self) -> bool:
        """Return False: processes run for ever."""
        return False

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what it remembers beside the machine, for :meth:`restore`; the arrays themselves."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, a producer on an equal machine."""
