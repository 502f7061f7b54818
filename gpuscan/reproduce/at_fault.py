"""Promotion where the fault is: what do_numa_page() does without any thread, for a design to be laid beside.

In memory tiering mode a page below the top tier whose hint fault is wanted is isolated and migrated by the
task that faulted, a folio at a time (migrate_misplaced_folio(), Linux 6.11 to 6.18).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.machine import SimulatedMachine

_AT_ONCE = 4096
"""Faults that are handed over in one call; one by one, only the modelled time would differ."""


def promote_at_fault(
    machine: SimulatedMachine,
    n_ticks: int,
    tick_ns: int,
    on_tick: Callable[[int, Mapping[str, float]], None] = lambda tick, metrics: None,
) -> Counter[str]:
    """Run a machine and promote what faults.

    Args:
        machine: where time passes.
        n_ticks, tick_ns: how long.
        on_tick: called with the number of each tick, and the machine's metrics of it.

    Returns:
        ``pgpromote_success`` (base pages), ``thp_migration_success`` (folios of 2 MiB), ``migrate_ns``
        (modelled, rounded down), and reasons of refusals.
    """
    source, migrator = producer_of(machine), SimulatedMigrator(machine)
    counters: Counter[str] = Counter()
    for tick in range(n_ticks):
        seen = source.observe(tick * tick_ns, tick_ns)
        pfns, targets = seen.pfns[seen.wanted], seen.target_nids[seen.wanted]
        for target in np.unique(targets).tolist():
            mine = pfns[targets == target]
            for start in range(0, len(mine), _AT_ONCE):
                batch = mine[start : start + _AT_ONCE]
                folios = machine.space.folios_at(machine.page_map.flat_of_pfn(batch))
                n_pages = 1 << machine.space.orders_of(folios)
                result = migrator.migrate(target, batch, n_pages)
                moved = n_pages[result.status == 0]
                counters["pgpromote_success"] += int(moved.sum())
                counters["thp_migration_success"] += int((moved >= 1 << PMD_ORDER).sum())
                counters["migrate_ns"] += int(result.busy_ns)
                counters.update(result.reasons)
        on_tick(tick, seen.metrics)
    return counters
