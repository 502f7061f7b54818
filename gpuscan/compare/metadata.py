"""What a design keeps for a machine, from the published layouts."""

from __future__ import annotations

from gpuscan.compare.settings import OURS
from gpuscan.designs.hot_list import ENTRY_BYTES as HOT_ENTRY_BYTES
from gpuscan.designs.hot_list import PGHOT_HASH_ENTRIES, PGHOT_HASH_PCT, PGHOT_HEAP_PCT
from gpuscan.designs.percpu_list import ENTRY_BYTES
from gpuscan.designs.readings import FOLIO_RECORD_BYTES
from gpuscan.designs.rfc import PAGE_EXT_BYTES
from gpuscan.designs.tunables import pghot_format
from gpuscan.engine.policy import Policy
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine

POINTER_BYTES = 8
_LIST_ENTRIES = 4096
_BUCKET_BYTES = 16
"""A list head and its lock."""


def metadata_bytes(design: str, machine: SimulatedMachine, policy: Policy, n_listed: int) -> int:
    """Return what a design keeps beside struct page.

    Args:
        design, machine, policy: as it runs.
        n_listed: pages that were ever asked for: ``hot-list`` allocates an entry for each.
    """
    topology = machine.topology
    n_pages = topology.page_map.n_present_pages
    lower = [node for node in topology.nodes if node.present_pages and not machine.top_tier[node.nid]]
    if design == OURS:
        n_flat, fmt = topology.page_map.n_pages, record_format(policy.record_format)
        orders = n_flat if machine.has_large_folios else 0  # a byte each, kept only where there are some
        # Records, ready and eligible bits, block bits.
        return n_flat * fmt.n_bytes + 2 * n_flat // 8 + n_flat // 512 // 8 + orders
    if design == "section-flag":
        tracked = sum(node.present_pages for node in lower)
        return (
            tracked * record_format(pghot_format(policy)).n_bytes + n_pages // SECTION_PAGES * POINTER_BYTES
        )
    if design == "percpu-list":
        n_cpus = sum(len(node.cpus) for node in topology.nodes)
        n_sources = sum(1 for node in topology.nodes if node.present_pages)
        return n_cpus * n_sources * _LIST_ENTRIES * ENTRY_BYTES
    if design == "hot-list":
        n_hashed = sum(node.present_pages for node in lower) * PGHOT_HASH_PCT // 100
        n_heaps = sum(1 for node in topology.nodes if node.cpus and machine.top_tier[node.nid])
        heaps = n_heaps * (n_hashed * PGHOT_HEAP_PCT // 100) * POINTER_BYTES
        return n_hashed // PGHOT_HASH_ENTRIES * _BUCKET_BYTES + heaps + n_listed * HOT_ENTRY_BYTES
    if design == "per-folio":
        return machine.space.n_folios * FOLIO_RECORD_BYTES
    extra = len(topology.zones) if design == "zone-flag" else 0
    return n_pages * PAGE_EXT_BYTES + extra
