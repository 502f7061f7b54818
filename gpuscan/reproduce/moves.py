"""Memory of a simulated machine moved from one node to another, batch by batch: what it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec, MigrationCostSpec, PatternSpec, ProcessSpec
from gpuscan.topology.presets import preset

MACHINE = "two-socket"
_MEMORY_BYTES = 8 << 30
_FROM, _TO = 1, 0


@dataclass(frozen=True, slots=True)
class Moved:
    """What it took to move some memory.

    Attributes:
        n_bytes: moved.
        n_folios: moved.
        n_rounds: of ``migrate_pages()``, each with a TLB flush.
        busy_ns: modelled.
    """

    n_bytes: int
    n_folios: int
    n_rounds: int
    busy_ns: float

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second."""
        return self.n_bytes / self.busy_ns


def move(n_bytes: int, order: int, cost: MigrationCostSpec, batch_pages: int) -> Moved:
    """Move a process's memory from one socket to the other.

    Args:
        n_bytes: of it, in whole folios.
        order: of its folios.
        cost: of migrations.
        batch_pages: base pages handed to the migrator at once.
    """
    process = ProcessSpec(
        "moved", n_bytes // PAGE_BYTES, (_TO,), 1.0, ((_FROM, 1.0),), order, pattern=PatternSpec("uniform")
    )
    machine = SimulatedMachine(preset(MACHINE, _MEMORY_BYTES), MachineSpec((process,), cost=cost))
    migrator = SimulatedMigrator(machine)
    pfns = machine.page_map.pfn_of_flat(machine.space.frame_of.astype(np.int64))
    n_rounds, busy_ns = 0, 0.0
    at_once = max(1, batch_pages >> order)
    n_moved = 0
    for start in range(0, len(pfns), at_once):
        batch = pfns[start : start + at_once]
        result = migrator.migrate(_TO, batch, np.full(len(batch), 1 << order, dtype=np.int64))
        n_moved += int((result.status == 0).sum())
        n_rounds += result.n_rounds
        busy_ns += result.busy_ns
    return Moved(n_moved * PAGE_BYTES << order, n_moved, n_rounds, busy_ns)
