"""gpuscan: find migrate-ready pages of terabytes, group them by target node, batch and move them.

What a tiering daemon embeds is here by name; everything is imported at first use,
so that ``import gpuscan`` costs nothing.

- the machine: :class:`Topology`, :func:`resolve_topology` (a preset, a TOML file, or this host)
- the records: :class:`Store`, :class:`Plan`, :class:`Outcome`, :class:`ReleaseOutcome`;
  :class:`PageMap` has the flat index that they go by
- the loop: :class:`Engine`, :class:`Policy`, :class:`Ledger`, and what they call:
  :class:`Source`, :class:`Migrator`; :class:`Resumable` is what a checkpoint can hold of these
- the migrator of real processes: :class:`MovePagesMigrator`, on :class:`Process`, :class:`AddressMap` and
  :class:`Room`
- the simulated machine: :class:`SimulatedMachine`, :class:`HintFaultSource`, :class:`SimulatedMigrator`
- workloads: :func:`load_workload`, :func:`build_scenario`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuscan.engine import Engine, RunReport, TickReport
    from gpuscan.errors import (
        ArgumentError,
        DeviceError,
        GpuscanError,
        InputError,
        RunFailedError,
        SnapshotError,
        TopologyError,
    )
    from gpuscan.flow import (
        FolioEvents,
        MigrateResult,
        MigrateStatus,
        Migrator,
        Produced,
        Resumable,
        Sampled,
        Source,
    )
    from gpuscan.kernels.api import Outcome, ReleaseOutcome
    from gpuscan.ledger import Ledger
    from gpuscan.linux.address_map import AddressMap
    from gpuscan.linux.numa import Room
    from gpuscan.linux.process import Process
    from gpuscan.migrate.move_pages import MovePagesMigrator
    from gpuscan.migrate.simulated import SimulatedMigrator
    from gpuscan.pagemap import PageMap
    from gpuscan.pagestore import PageStore
    from gpuscan.plan import Batch, Batches, Plan
    from gpuscan.policy import Policy
    from gpuscan.scenario import Scenario, build_scenario
    from gpuscan.sim.machine import SimulatedMachine
    from gpuscan.snapshot import Snapshot
    from gpuscan.sources.hint_faults import HintFaultSource
    from gpuscan.store import Store
    from gpuscan.topology import Topology
    from gpuscan.topology.resolve import resolve_topology
    from gpuscan.workload import Workload, load_workload

__version__ = "0.1.0"

_MODULE_OF = {
    "AddressMap": "gpuscan.linux.address_map",
    "ArgumentError": "gpuscan.errors",
    "Batch": "gpuscan.plan",
    "Batches": "gpuscan.plan",
    "DeviceError": "gpuscan.errors",
    "Engine": "gpuscan.engine",
    "FolioEvents": "gpuscan.flow",
    "GpuscanError": "gpuscan.errors",
    "HintFaultSource": "gpuscan.sources.hint_faults",
    "InputError": "gpuscan.errors",
    "Ledger": "gpuscan.ledger",
    "MigrateResult": "gpuscan.flow",
    "MigrateStatus": "gpuscan.flow",
    "Migrator": "gpuscan.flow",
    "MovePagesMigrator": "gpuscan.migrate.move_pages",
    "Outcome": "gpuscan.kernels.api",
    "PageMap": "gpuscan.pagemap",
    "PageStore": "gpuscan.pagestore",
    "Plan": "gpuscan.plan",
    "Policy": "gpuscan.policy",
    "Process": "gpuscan.linux.process",
    "Produced": "gpuscan.flow",
    "ReleaseOutcome": "gpuscan.kernels.api",
    "Resumable": "gpuscan.flow",
    "Room": "gpuscan.linux.numa",
    "RunFailedError": "gpuscan.errors",
    "RunReport": "gpuscan.engine",
    "Sampled": "gpuscan.flow",
    "Scenario": "gpuscan.scenario",
    "SimulatedMachine": "gpuscan.sim.machine",
    "SimulatedMigrator": "gpuscan.migrate.simulated",
    "Snapshot": "gpuscan.snapshot",
    "SnapshotError": "gpuscan.errors",
    "Source": "gpuscan.flow",
    "Store": "gpuscan.store",
    "TickReport": "gpuscan.engine",
    "Topology": "gpuscan.topology",
    "TopologyError": "gpuscan.errors",
    "Workload": "gpuscan.workload",
    "build_scenario": "gpuscan.scenario",
    "load_workload": "gpuscan.workload",
    "resolve_topology": "gpuscan.topology.resolve",
}

__all__ = [
    "AddressMap",
    "ArgumentError",
    "Batch",
    "Batches",
    "DeviceError",
    "Engine",
    "FolioEvents",
    "GpuscanError",
    "HintFaultSource",
    "InputError",
    "Ledger",
    "MigrateResult",
    "MigrateStatus",
    "Migrator",
    "MovePagesMigrator",
    "Outcome",
    "PageMap",
    "PageStore",
    "Plan",
    "Policy",
    "Process",
    "Produced",
    "ReleaseOutcome",
    "Resumable",
    "Room",
    "RunFailedError",
    "RunReport",
    "Sampled",
    "Scenario",
    "SimulatedMachine",
    "SimulatedMigrator",
    "Snapshot",
    "SnapshotError",
    "Source",
    "Store",
    "TickReport",
    "Topology",
    "TopologyError",
    "Workload",
    "__version__",
    "build_scenario",
    "load_workload",
    "resolve_topology",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gpuscan' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
