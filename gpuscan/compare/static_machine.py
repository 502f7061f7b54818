"""The open loop's machine: pages as on a simulated machine, on which nothing moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuscan.designs.folio_steps import FolioSteps
from gpuscan.designs.machine import BatchResult
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.migrate.simulated import SimulatedMigrator, rounds
from gpuscan.sim.machine import SimulatedMachine


class StillPages(SimulatedPages):
    """Every folio passes the checks, every batch for a node of the machine succeeds, and all stays as it is.

    Args:
        machine: in its first state; the designs of a comparison may share one.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        super().__init__(machine, SimulatedMigrator(machine, has_vma=False))
        self._steps: dict[int | None, FolioSteps] = {}

    def n_steps(self, start_pfn: int, end_pfn: int, nid: int | None = None) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return int(self.steps_to(start_pfn, np.array([end_pfn]), nid)[0])

    def _folio_steps(self, nid: int | None) -> FolioSteps:
        found = self._steps.get(nid)
        if found is None:
            found = self._steps[nid] = super()._folio_steps(nid)
        return found

    def prepare(self, head: int, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return 0

    def migrate(self, heads: Sequence[int], nid: int) -> BatchResult:
        """See :class:`gpuscan.designs.machine.Machine`; takes no time."""
        n_pages = np.array([self.page(head).n_pages for head in heads], dtype=np.int64)
        if nid not in self.nids:
            return BatchResult((False,) * len(heads), counts=(("pgmigrate_fail", int(n_pages.sum())),))
        counts = {
            "pgmigrate_success": int(n_pages.sum()),
            "migrate_pages_rounds": len(rounds(np.arange(len(heads)), n_pages)),
        }
        return BatchResult((True,) * len(heads), counts=tuple(counts.items()))
