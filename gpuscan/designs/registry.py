"""The designs by name."""

from __future__ import annotations

from collections.abc import Callable

from gpuscan.base.errors import InputError
from gpuscan.designs.design import Design
from gpuscan.designs.engine import DesignEngine
from gpuscan.designs.hot_list import HotList, HotListTunables
from gpuscan.designs.machine import Machine
from gpuscan.designs.percpu_list import PercpuList
from gpuscan.designs.pghot import PghotTunables, SectionFlag
from gpuscan.designs.readings import PerFolio, ZoneFlag
from gpuscan.designs.rfc import RfcFixed, RfcV1
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.designs.tunables import MIB, check_tunables, pghot_format
from gpuscan.engine.policy import Policy
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.sim.machine import SimulatedMachine

_NS_PER_MS = 1_000_000


def _section_flag(machine: Machine, policy: Policy) -> Design:
    limit = policy.rate_limit_bytes_per_s // MIB
    defaults = PghotTunables()
    tunables = PghotTunables(
        pghot_format(policy),
        target_nid=min(nid for nid in machine.nids if machine.is_top_tier(nid)),
        freq_threshold=policy.freq_threshold,
        freq_window_ms=policy.window_ns // _NS_PER_MS or None,
        rate_limit_mbps=limit or defaults.rate_limit_mbps,
        hz=policy.hz,
    )
    return SectionFlag(machine, tunables)


def _hot_list(machine: Machine, policy: Policy) -> Design:
    limit = policy.rate_limit_bytes_per_s // MIB
    defaults = HotListTunables()
    tunables = HotListTunables(
        freq_window_ms=policy.window_ns // _NS_PER_MS or defaults.freq_window_ms,
        rate_limit_mbps=limit or defaults.rate_limit_mbps,
        hz=policy.hz,
    )
    return HotList(machine, tunables)


_DESIGNS: dict[str, Callable[[Machine, Policy], Design]] = {
    RfcV1.name: lambda machine, _: RfcV1(machine),
    RfcFixed.name: lambda machine, _: RfcFixed(machine),
    SectionFlag.name: _section_flag,
    HotList.name: _hot_list,
    ZoneFlag.name: lambda machine, _: ZoneFlag(machine),
    PercpuList.name: lambda machine, _: PercpuList(machine),
    PerFolio.name: lambda machine, _: PerFolio(machine),
}

DESIGNS = tuple(_DESIGNS)
"""Names of the designs besides ``gpuscan``."""


def require_design(name: str) -> None:
    """Check a name, before anything is built for it.

    Raises:
        InputError: there is no such design.
    """
    if name not in _DESIGNS:
        raise InputError(f"unknown design {name!r}; choose gpuscan, {', '.join(DESIGNS)}")


def make_design(name: str, machine: Machine, policy: Policy) -> Design:
    """Return a design on a machine.

    Args:
        name: one of :data:`DESIGNS`.
        machine: whose pages are walked.
        policy: see :func:`design_engine`.

    Raises:
        InputError: there is no such design, it has nothing to do on this machine, or the kernel would
            refuse a value.
    """
    require_design(name)
    check_tunables(name, policy)
    design = _DESIGNS[name](machine, policy)
    if design.counts_accesses and all(machine.is_top_tier(nid) for nid in machine.nids):
        raise InputError(
            f"the design {name} promotes from lower tiers only, and all memory of this machine is one tier; "
            "choose another workload, such as cxl-promote"
        )
    return design


def design_engine(name: str, machine: SimulatedMachine, policy: Policy) -> DesignEngine:
    """Return an engine that runs a design on a simulated machine.

    Args:
        name: one of :data:`DESIGNS`.
        machine: the machine.
        policy: ``interval_ns`` and ``hz``; for ``section-flag`` ``record_format`` (``pghot`` is the precise
            mode, everything else the compact one) and ``freq_threshold``; for that and ``hot-list`` a window
            and a rate limit, if there is one.

    Raises:
        InputError: there is no such design, or it has nothing to do on this machine.
    """
    pages = SimulatedPages(machine, SimulatedMigrator(machine, has_vma=False))
    return DesignEngine(make_design(name, pages, policy), machine, producer_of(machine), policy)
