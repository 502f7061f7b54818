"""The open loop's machine: pages as on a simulated machine, on which nothing moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.folio_steps import FolioSteps
from gpuscan.designs.machine import BatchResult, BatchResults, migrate_one_by_one
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.migrate.simulated import ROUND_PAGES, SimulatedMigrator, rounds
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
        if not self._large:
            return end_pfn - start_pfn
        return int(self.steps_to(start_pfn, np.array([end_pfn]), nid)[0])

    def _folio_steps(self, nid: int | None) -> FolioSteps:
        found = self._steps.get(nid)
        if found is None:
            found = self._steps[nid] = super()._folio_steps(nid)
        return found

    def prepare(self, head: int, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return 0

    @property
    def isolated_goes_off_lru(self) -> bool:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return False

    def refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return np.zeros(len(heads), dtype=np.int8)

    def draws(self, n: int) -> NDArray[np.bool_]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return np.zeros(n, dtype=np.bool_)

    def prepare_many(
        self, heads: NDArray[np.int64], nids: NDArray[np.int64], accepted: NDArray[np.bool_]
    ) -> None:
        """See :class:`gpuscan.designs.machine.Machine`."""

    def migrate(self, heads: Sequence[int] | NDArray[np.int64], nid: int) -> BatchResult:
        """See :class:`gpuscan.designs.machine.Machine`; takes no time."""
        n_pages = self.pages(np.asarray(heads, dtype=np.int64)).n_pages
        if nid not in self.nids:
            return BatchResult(
                np.zeros(len(heads), dtype=np.bool_), counts=(("pgmigrate_fail", int(n_pages.sum())),)
            )
        counts = {
            "pgmigrate_success": int(n_pages.sum()),
            "migrate_pages_rounds": len(rounds(np.arange(len(heads)), n_pages)),
        }
        return BatchResult(np.ones(len(heads), dtype=np.bool_), counts=tuple(counts.items()))

    def steady_pages(self, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self.n_positions

    def migrate_each(
        self, heads: NDArray[np.int64], ends: NDArray[np.int64], nids: NDArray[np.int64]
    ) -> BatchResults:
        """See :class:`gpuscan.designs.machine.Machine`; takes no time."""
        if self._large:
            return migrate_one_by_one(self, heads, ends, nids)
        sizes = np.diff(ends, prepend=0)
        moved = np.repeat(self._have_memory(nids), sizes)
        n_moved = int(np.count_nonzero(moved))
        counts = {"pgmigrate_success": n_moved, "pgmigrate_fail": len(heads) - n_moved}
        counts["migrate_pages_rounds"] = int((-(-sizes // ROUND_PAGES))[self._have_memory(nids)].sum())
        return BatchResults(moved, np.zeros(len(ends)), (), counts)
