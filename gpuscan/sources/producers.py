"""The producers of a simulated machine, by what its spec asks for."""

from __future__ import annotations

from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import ABitSpec, SamplerSpec
from gpuscan.sources.accessed_bits import AccessedBitSource
from gpuscan.sources.hint_faults import HintFaultSource
from gpuscan.sources.hotness_units import HotnessUnitSource
from gpuscan.sources.producer import Producer
from gpuscan.sources.sampler import SamplerSource


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
