"""gpuscan: find migrate-ready pages of terabytes, group them by target node, batch and move them.

What a tiering daemon embeds is here by name; everything is imported at first use,
so that ``import gpuscan`` costs nothing.

- the machine: :class:`Topology`, :func:`resolve_topology` (a preset, a TOML file, or this host)
- the records: :class:`Store`, :class:`Plan`, :class:`Outcome`, :class:`ReleaseOutcome`
- the loop: :class:`Engine`, :class:`Policy`, :class:`Ledger`, and what they call:
  :class:`Source`, :class:`Migrator`
- the simulated machine: :class:`SimulatedMachine`, :class:`HintFaultSource`, :class:`SimulatedMigrator`
- workloads: :func:`load_workload`, :func:`build_scenario`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuscan.engine import Engine, RunReport, TickReport
    from gpuscan.errors import (
        DeviceError,
        GpuscanError,
        InputError,
        RunFailedError,
        SnapshotError,
        TopologyError,
    )
    from gpuscan.flow import FolioEvents, MigrateResult, MigrateStatus, Migrator, Produced, Sampled, Source
    from gpuscan.kernels.api import Outcome, ReleaseOutcome
    from gpuscan.ledger import Ledger
    from gpuscan.migrate.simulated import SimulatedMigrator
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

_HOME = {
    "gpuscan.engine": ("Engine", "RunReport", "TickReport"),
    "gpuscan.errors": (
        "DeviceError",
        "GpuscanError",
        "InputError",
        "RunFailedError",
        "SnapshotError",
        "TopologyError",
    ),
    "gpuscan.flow": (
        "FolioEvents",
        "MigrateResult",
        "MigrateStatus",
        "Migrator",
        "Produced",
        "Sampled",
        "Source",
    ),
    "gpuscan.kernels.api": ("Outcome", "ReleaseOutcome"),
    "gpuscan.ledger": ("Ledger",),
    "gpuscan.migrate.simulated": ("SimulatedMigrator",),
    "gpuscan.plan": ("Batch", "Batches", "Plan"),
    "gpuscan.policy": ("Policy",),
    "gpuscan.scenario": ("Scenario", "build_scenario"),
    "gpuscan.sim.machine": ("SimulatedMachine",),
    "gpuscan.snapshot": ("Snapshot",),
    "gpuscan.sources.hint_faults": ("HintFaultSource",),
    "gpuscan.store": ("Store",),
    "gpuscan.topology": ("Topology",),
    "gpuscan.topology.resolve": ("resolve_topology",),
    "gpuscan.workload": ("Workload", "load_workload"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: PLE0604 - the names are those of the table above
    "__version__",
    *_MODULE_OF,
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gpuscan' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
