"""The producers of a simulated machine, by what its spec asks for."""

from __future__ import annotations

from gpuscan.producers.accessed_bits import AccessedBitSource
from gpuscan.producers.contract import Producer
from gpuscan.producers.hint_faults import HintFaultSource
from gpuscan.producers.hotness_units import HotnessUnitSource
from gpuscan.producers.sampler import SamplerSource
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import ABitSpec, SamplerSpec


def producer_of(machine: SimulatedMachine) -> Producer:
    """Return what marks the pages of a machine, as its spec says.

    Raises:
        InputError: the producer cannot work on this machine.
    """
    spec = machine.spec.producer
    if spec is None:
        return HintFaultSource(machine)
    if isinstance(spec, SamplerSpec):
        return SamplerSource(machine, spec)
    if isinstance(spec, ABitSpec):
        return AccessedBitSource(machine, spec)
    return HotnessUnitSource(machine, spec)
