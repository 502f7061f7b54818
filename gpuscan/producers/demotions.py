"""Marks for demotion beside those of another source: one thread then promotes and demotes.

"I was thinking to design and implement a kthread for memory placement between different tiers
[...], rather than relying on kswapd and hinting fault" (B. Park, linux-mm, 2025-07-07, in reply
to "[RFC PATCH v1 3/4] mm: kmigrated - Async kernel migration thread"). No code was published.
Our reading: what is cold, and when a node is short of memory, is as kswapd has it; where it
would demote, a request for the lower node is made instead. So the same index holds requests in
both directions, one scan finds both, and a plan has both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuscan.engine.stages import Produced, ResumableSource, Sampled
from gpuscan.sim.machine import SimulatedMachine


class DemotingSource:
    """A :class:`gpuscan.engine.stages.Source` that adds requests for demotion to another's marks.

    Adds the metrics ``demotion_marks`` and ``kswapd_no_lower_tier``.

    Args:
        source: where the other marks come from, and where time passes.
        machine: whose cold folios are marked; its spec says ``demotion_marked``.
    """

    def __init__(self, source: ResumableSource, machine: SimulatedMachine) -> None:
        self._source = source
        self._machine = machine

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """See :class:`gpuscan.engine.stages.Source`."""
        sampled = self._source.sample(now_ns, duration_ns)
        frames, nids, n_nowhere = self._machine.cold_folios(duration_ns)
        cold = Produced("request", self._machine.page_map.pfn_of_flat(frames), nids)
        metrics = {
            **sampled.metrics,
            "demotion_marks": float(len(frames)),
            "kswapd_no_lower_tier": float(n_nowhere),
        }
        produced = (*sampled.produced, cold) if len(frames) else sampled.produced
        return Sampled(produced, sampled.events, metrics)

    def finished(self) -> bool:
        """See :class:`gpuscan.engine.stages.Source`."""
        return self._source.finished()

    def state(self) -> dict[str, Any]:
        """Return what the other source remembers; who is cold is the machine's to know."""
        return {"source": self._source.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of."""
        self._source.restore(state["source"])
