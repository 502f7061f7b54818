"""Pools of hugetlbfs, node by node (Documentation/admin-guide/mm/hugetlbpage.rst)."""

from __future__ import annotations

from gpuscan.linux.system import HERE, System

_POOL, _FREE = "hugepages-2048kB", "free_hugepages"


def free_huge_pages(nid: int, system: System = HERE) -> int:
    """Return how many hugetlb pages of 2 MiB are free on a node and nobody's; 0 where it does not say.

    A page that moves takes one of them and leaves one behind. Without one the kernel would make one of other
    memory of the node, where the pool says what it has; and so it does where all that are free are reserved
    by mappings that have not touched them yet (alloc_hugetlb_folio_nodemask(),
    alloc_migrate_hugetlb_folio(), mm/hugetlb.c, v6.12). Reserved ones are of no node.
    """
    of_node = system.root / f"sys/devices/system/node/node{nid}/hugepages" / _POOL
    of_all = system.root / "sys/kernel/mm/hugepages" / _POOL
    try:
        free, all_free, reserved = (
            int(system.read_text(file))
            for file in (of_node / _FREE, of_all / _FREE, of_all / "resv_hugepages")
        )
    except (OSError, ValueError):
        return 0
    return max(0, min(free, all_free - reserved))
