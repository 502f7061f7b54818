"""What a workload may say about one producer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpuscan.base.values import Model
from gpuscan.sim.spec import ProducerSpec
from gpuscan.topology.model import Topology


class Options(Model, ABC):
    """Keys of ``[producer.NAME]``, each with a default: the table may be left out."""

    @abstractmethod
    def spec(self, topology: Topology) -> ProducerSpec | None:
        """Return what is to watch a machine; None where NUMA balancing is, which every machine has."""

    @abstractmethod
    def turns_ns(self) -> dict[str, int]:
        """Return pauses by key, of what costs a loop of its own each time; 0 where nothing comes by."""
