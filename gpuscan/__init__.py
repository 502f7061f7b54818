"""gpuscan: find migrate-ready pages of terabytes, group them by target node, batch and move them.

What a tiering daemon embeds is here by name; everything is imported at first use,
so that ``import gpuscan`` costs nothing.

- the machine: :class:`Topology`, :func:`resolve_topology` (a preset, this host, or a file that describes one)
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
    from gpuscan.base.errors import (
        ArgumentError,
        DeviceError,
        GpuscanError,
        InputError,
        RunFailedError,
        SnapshotError,
        TopologyError,
    )
    from gpuscan.engine.ledger import Ledger
    from gpuscan.engine.policy import Policy
    from gpuscan.engine.stages import (
        FolioEvents,
        MigrateResult,
        MigrateStatus,
        Migrator,
        Produced,
        Resumable,
        Sampled,
        Source,
    )
    from gpuscan.engine.tick import Engine, RunReport, TickReport
    from gpuscan.kernels.api import Outcome, ReleaseOutcome
    from gpuscan.linux.address_map import AddressMap
    from gpuscan.linux.numa import Room
    from gpuscan.linux.process import Process
    from gpuscan.migrate.move_pages import MovePagesMigrator
    from gpuscan.migrate.simulated import SimulatedMigrator
    from gpuscan.producers.built_in.hint_faults import HintFaultSource
    from gpuscan.records.page_map import PageMap
    from gpuscan.run.scenario import Scenario, build_scenario
    from gpuscan.sim.machine import SimulatedMachine
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.store.contract import PageStore
    from gpuscan.store.plan import Batch, Batches, Plan
    from gpuscan.store.single import Store
    from gpuscan.topology import Topology
    from gpuscan.topology.resolve import resolve_topology
    from gpuscan.workload.files import Workload, load_workload

__version__ = "0.1.0"

_MODULE_OF = {
    "AddressMap": "gpuscan.linux.address_map",
    "ArgumentError": "gpuscan.base.errors",
    "Batch": "gpuscan.store.plan",
    "Batches": "gpuscan.store.plan",
    "DeviceError": "gpuscan.base.errors",
    "Engine": "gpuscan.engine.tick",
    "FolioEvents": "gpuscan.engine.stages",
    "GpuscanError": "gpuscan.base.errors",
    "HintFaultSource": "gpuscan.producers.built_in.hint_faults",
    "InputError": "gpuscan.base.errors",
    "Ledger": "gpuscan.engine.ledger",
    "MigrateResult": "gpuscan.engine.stages",
    "MigrateStatus": "gpuscan.engine.stages",
    "Migrator": "gpuscan.engine.stages",
    "MovePagesMigrator": "gpuscan.migrate.move_pages",
    "Outcome": "gpuscan.kernels.api",
    "PageMap": "gpuscan.records.page_map",
    "PageStore": "gpuscan.store.contract",
    "Plan": "gpuscan.store.plan",
    "Policy": "gpuscan.engine.policy",
    "Process": "gpuscan.linux.process",
    "Produced": "gpuscan.engine.stages",
    "ReleaseOutcome": "gpuscan.kernels.api",
    "Resumable": "gpuscan.engine.stages",
    "Room": "gpuscan.linux.numa",
    "RunFailedError": "gpuscan.base.errors",
    "RunReport": "gpuscan.engine.tick",
    "Sampled": "gpuscan.engine.stages",
    "Scenario": "gpuscan.run.scenario",
    "SimulatedMachine": "gpuscan.sim.machine",
    "SimulatedMigrator": "gpuscan.migrate.simulated",
    "Snapshot": "gpuscan.snapshot.snapshot",
    "SnapshotError": "gpuscan.base.errors",
    "Source": "gpuscan.engine.stages",
    "Store": "gpuscan.store.single",
    "TickReport": "gpuscan.engine.tick",
    "Topology": "gpuscan.topology",
    "TopologyError": "gpuscan.base.errors",
    "Workload": "gpuscan.workload.files",
    "build_scenario": "gpuscan.run.scenario",
    "load_workload": "gpuscan.workload.files",
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
