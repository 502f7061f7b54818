"""All producers: those in ``built_in``, and others' by the entry points ``gpuscan.producers``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.base.catalogue import Catalogue
from gpuscan.producers.contract import ProducerKind

if TYPE_CHECKING:
    from gpuscan.producers.source import Producer
    from gpuscan.sim.machine import SimulatedMachine

PRODUCERS = Catalogue("producer", "gpuscan.producers.built_in", ProducerKind, "PRODUCER")


def producer_of(machine: SimulatedMachine) -> Producer:
    """Return what marks the pages of a machine, as its spec says.

    Raises:
        InputError: there is no such producer, or it cannot work on this machine.
    """
    spec = machine.spec.producer or machine.spec.hint_faults
    return PRODUCERS.get(spec.kind).make(machine, spec)
