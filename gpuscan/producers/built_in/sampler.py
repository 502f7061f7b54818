"""Marks from sampled accesses, as the IBS driver of kpromoted reports them: page, node of the CPU, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gpuscan.base.errors import InputError
from gpuscan.base.values import Share, TimeNs
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.options import Options
from gpuscan.producers.source import Producer
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.sampler import AccessSampler, SamplerSpec
from gpuscan.topology.model import Topology

_SPEC = SamplerSpec()


class SamplerOptions(Options):
    """An access sampler, see :class:`gpuscan.sim.sampler.SamplerSpec`."""

    period: Annotated[int, Field(ge=1, lt=2**40)] = _SPEC.period
    min_latency: TimeNs = int(_SPEC.min_latency_ns)
    useless: Share = _SPEC.useless_share
    sample_cost: TimeNs = int(_SPEC.sample_ns)

    def spec(self, topology: Topology) -> SamplerSpec:
        """See :class:`gpuscan.producers.options.Options`."""
        return SamplerSpec(self.period, self.min_latency, self.useless, self.sample_cost)

    def turns_ns(self) -> dict[str, int]:
        """Return nothing: no loop is begun for it."""
        return {}


class SamplerSource(Producer):
    """An access sampler.

    Adds to the machine's metrics: ``samples``; ``samples_useless`` (no usable address) and
    ``samples_filtered`` (served faster than ``min_latency_ns``) of them; ``seen_top_tier``,
    ``seen_no_target``, ``seen_at_home`` and ``marks``.

    Args:
        machine: where time passes.
        spec: of the sampler.

    Raises:
        InputError: latencies shall be looked at, and the topology does not know them all.
    """

    def __init__(self, machine: SimulatedMachine, spec: SamplerSpec) -> None:
        super().__init__(machine)
        self._spec = spec
        self._sampler = AccessSampler(spec, machine.spec.seed)
        self._fast = np.zeros((N_NODES_MAX, N_NODES_MAX), dtype=np.bool_)
        if spec.min_latency_ns:
            self._find_fast_links()

    def _find_fast_links(self) -> None:
        topology = self._machine.topology
        cpu_nids = {nid for process in self._machine.processes for nid in process.spec.cpu_nids}
        for cpu_nid in sorted(cpu_nids):
            for node in topology.nodes:
                link = topology.links.get((cpu_nid, node.nid))
                if link is None and node.present_pages:
                    raise InputError(
                        f"topology {topology.name} gives no latency from node {cpu_nid} to node {node.nid}, "
                        "which min_latency would look at; add it, or set min_latency to 0ns"
                    )
                if link is not None and link.latency_ns < self._spec.min_latency_ns:
                    self._fast[cpu_nid, node.nid] = True

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`gpuscan.producers.source.Producer`."""
        elapsed = self._machine.run(now_ns, duration_ns, self._sampler)
        samples = self._sampler.take()
        frames = self._machine.space.frame_of[samples.folios].astype(np.int64)
        slow = ~self._fast[samples.cpu_nids, self._machine.page_map.nid_of_flat(frames)]
        n_samples = len(samples.folios) + samples.n_useless
        cpu_nids = samples.cpu_nids[slow]
        counted: dict[str, float] = {
            "samples": n_samples,
            "samples_useless": samples.n_useless,
            "samples_filtered": int((~slow).sum()),
            "producer_cost_ns": n_samples * self._spec.sample_ns,
        }
        return self._observed(
            samples.folios[slow], self._target[cpu_nids], cpu_nids, samples.at_ns[slow], elapsed, counted
        )

    def state(self) -> dict[str, Any]:
        """Return nothing: which accesses are sampled is a function of the seed and their number."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`state`."""


PRODUCER = ProducerKind(
    about="sampled accesses, as IBS and PEBS report them",
    options=SamplerOptions,
    make=SamplerSource,
    told=(Told("samples", "samples"), Told("samples_useless", "useless", ("samples",), if_any=True)),
)
