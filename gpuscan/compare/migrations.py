"""What a migrator did in the closed loop, seen from outside: which folios moved when, in how many rounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpuscan.compare.recording import Recording
from gpuscan.engine.stages import FolioEvents, MigrateResult
from gpuscan.migrate.simulated import SimulatedMigrator, SinglesMoved
from gpuscan.sim.machine import SimulatedMachine


class WatchedMigrator(SimulatedMigrator):
    """A :class:`SimulatedMigrator` that notes every folio it moved.

    Args:
        machine, has_vma: as there.
        now_ns: returns the time of the loop that runs it.

    Attributes:
        n_rounds: ``migrate_pages()`` rounds.
    """

    def __init__(self, machine: SimulatedMachine, now_ns: Callable[[], int], *, has_vma: bool = True) -> None:
        super().__init__(machine, has_vma=has_vma)
        self._now_ns = now_ns
        self.n_rounds = 0
        self._moved: list[tuple[int, NDArray[np.int64]]] = []

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """See :class:`SimulatedMigrator`."""
        return self._noted(super().migrate(target_nid, pfns, n_pages))

    def migrate_isolated(self, target_nid: int, frames: NDArray[np.int64]) -> MigrateResult:
        """See :class:`SimulatedMigrator`."""
        return self._noted(super().migrate_isolated(target_nid, frames))

    def migrate_singles(
        self, frames: NDArray[np.int64], ends: NDArray[np.int64], target_nids: NDArray[np.int64]
    ) -> SinglesMoved:
        """See :class:`SimulatedMigrator`."""
        result = super().migrate_singles(frames, ends, target_nids)
        self.n_rounds += int(result.n_rounds.sum())
        self._note(result.events)
        return result

    def _noted(self, result: MigrateResult) -> MigrateResult:
        self.n_rounds += result.n_rounds
        self._note(result.events)
        return result

    def _note(self, events: tuple[FolioEvents, ...]) -> None:
        for event in events:
            self._moved.append((self._now_ns(), self._machine.space.folios_at(event.allocated)))

    def used_and_not(self, recording: Recording) -> tuple[int, int]:
        """Return how many moved folios were accessed again after their move, and how many never."""
        n_used = n_moved = 0
        for index, process in enumerate(self._machine.processes):
            last, first = recording.last_access(index), process.first_folio
            for now_ns, folios in self._moved:
                mine = folios[(folios >= first) & (folios < first + process.n_folios)] - first
                n_moved += len(mine)
                n_used += int(np.count_nonzero(last[mine] > process.accesses_until(now_ns)))
        return n_used, n_moved - n_used
