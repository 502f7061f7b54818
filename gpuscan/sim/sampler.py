"""A sampler of accesses: every so many, one is reported with its page and the node of its CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.loops import sample_positions
from gpuscan.sim.observer import SeesAccesses, access_ns
from gpuscan.sim.patterns import stream_key
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import ProducerSpec


@dataclass(frozen=True, slots=True)
class SamplerSpec(ProducerSpec):
    """An access sampler, as AMD's IBS or Intel's PEBS.

    Attributes:
        period: one access in so many is sampled, at random within each; of the workload's accesses,
            which are themselves a part of a real process's.
        min_latency_ns: samples of accesses that took less are left out, by the latency of the links.
        useless_share: of the samples, have no address of user memory: not a load or store, a kernel
            address, an invalid one. 1.4 % of the 1.67 million events that the IBS driver of kpromoted
            reported for a benchmark of random accesses (B. Rao to "[RFC PATCH 0/4] Kernel daemon for
            detecting and promoting hot pages", linux-mm, 2025-03-25, test 1).
        sample_ns: CPU time of a sample: assumed, one interrupt and its handler.
    """

    kind = "sampler"

    period: int = 16
    min_latency_ns: float = 0.0
    useless_share: float = 0.014
    sample_ns: float = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class AccessSamples:
    """What was sampled.

    Attributes:
        folios: int64[n], virtual folios of the useful samples.
        cpu_nids: int32[n], nodes of their CPUs.
        at_ns: int64[n], when.
        n_useless: samples without a usable address.
    """

    folios: NDArray[np.int64]
    cpu_nids: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    n_useless: int


class AccessSampler(SeesAccesses):
    """An :class:`gpuscan.sim.observer.Observer` that samples.

    Args:
        spec: how often.
        seed: of the machine.
    """

    def __init__(self, spec: SamplerSpec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._parts: list[tuple[NDArray[np.int64], int, NDArray[np.int64]]] = []
        self._n_useless = 0

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        spec, key = self._spec, stream_key(self._seed, 3, process.first_folio)
        positions = np.empty(len(folios) // spec.period + 2, dtype=np.int64)
        n_useful, n_useless = sample_positions(
            first_access, len(folios), spec.period, key, float(spec.useless_share), positions
        )
        self._n_useless += n_useless
        if n_useful:
            useful = positions[:n_useful]
            at_ns = access_ns(process, first_access + useful)
            self._parts.append((process.first_folio + folios[useful], stretch.cpu_nid, at_ns))

    def take(self) -> AccessSamples:
        """Return the samples since the last time, in their order per process."""
        parts, self._parts = self._parts, []
        n_useless, self._n_useless = self._n_useless, 0
        none = np.empty(0, dtype=np.int64)
        nids = [np.full(len(folios), nid, dtype=np.int32) for folios, nid, _ in parts]
        return AccessSamples(
            np.concatenate([none, *(folios for folios, _, _ in parts)]),
            np.concatenate([none.astype(np.int32), *nids]),
            np.concatenate([none, *(at_ns for _, _, at_ns in parts)]),
            n_useless,
        )
