"""Costs of a migration's steps that were fitted to published figures, for who needs them beside the tables.

Each experiment that fits one says so in its own ``fitted``; it is computed in one place, here.
"""

from __future__ import annotations

from gpuscan.base.units import PAGE_BYTES
from gpuscan.reproduce.batches import Reference, Steps
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.spec import MigrationCostSpec
from gpuscan.topology.presets import preset

FOLIO_GB_PER_S = {0: 3.31, 2: 5.61, 4: 6.66, 6: 7.01, 8: 7.13, 9: 11.02}
"""Published, by folio order: S. Garg, linux-kernel, 2026-05-08, table 1a, plain kernel, one thread."""
FITTED_ORDERS = (0, 8)
"""Of them, those that costs are fitted on."""
EARLIER_2M_GB_PER_S = 10.67
"""Of 2 MiB folios in the author's mail of 2025-09-23, table 1a (Linux 6.16-rc6, the same kind of machine)."""
MORE_PER_S = 2.917
"""Pages migrated a second with batched flushes, +291.7 %: Huang Ying, linux-mm, 2023-02-13."""

MACHINE = "two-socket"
"""The preset that stands for the machines of both."""
_MEMORY_BYTES = 8 << 30


def cost_by_folio() -> MigrationCostSpec:
    """Return the cost of a folio and of a page that give the throughput of 4K and of 1M folios.

    The cost of a round is its default and is in what was measured: 512 folios of 4K share one, and so do
    two of 1M. That of a page of a PMD-mapped folio is from the earlier mail.
    """
    round_ns = MigrationCostSpec().round_ns
    round_pages = MigrationCostSpec().round_pages
    small, large = ((PAGE_BYTES << order) / FOLIO_GB_PER_S[order] for order in FITTED_ORDERS)
    few, many = (1 << order for order in FITTED_ORDERS)
    page_ns = (large - small) / (many - few) - round_ns / round_pages
    folio_ns = small - few * (page_ns + round_ns / round_pages)
    huge_ns = (PAGE_BYTES << PMD_ORDER) / EARLIER_2M_GB_PER_S - round_ns - folio_ns
    return MigrationCostSpec(
        round_ns=round_ns, page_ns=page_ns, folio_ns=folio_ns, huge_page_ns=huge_ns / (1 << PMD_ORDER)
    )


def flush_ns(page_ns: float) -> float:
    """Return the cost of a TLB flush in a process on all CPUs, for a page that takes ``page_ns`` beside it.

    ``(page + flush) / (page + flush / 512)`` is the published gain of the throughput.
    """
    gain = 1.0 + MORE_PER_S
    return page_ns * (gain - 1.0) / (1.0 - gain / MigrationCostSpec().round_pages)


def steps_of_a_page() -> Reference:
    """Return the steps of a page of 4 KiB.

    A page of a PMD-mapped folio is little else than its copy. What a folio and a page entry take beside it
    is shared alike between before the copy (isolate, unmap) and after it (map, put back): an assumption.
    """
    cost = cost_by_folio()
    assert cost.huge_page_ns is not None
    beside_ns = cost.folio_ns + cost.page_ns - cost.huge_page_ns
    machine = preset(MACHINE, _MEMORY_BYTES)
    page_ns = beside_ns + cost.huge_page_ns
    steps = Steps(beside_ns / 2, flush_ns(page_ns), cost.huge_page_ns, beside_ns / 2)
    n_cpus = sum(len(node.cpus) for node in machine.nodes)
    return Reference(steps, n_cpus, machine.links[0, 1].latency_ns)
