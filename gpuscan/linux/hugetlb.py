"""Pools of hugetlbfs, node by node (Documentation/admin-guide/mm/hugetlbpage.rst)."""

from __future__ import annotations

from gpuscan.linux.system import HERE, System


def free_huge_pages(nid: int, system: System = HERE) -> int:
    """Return how many hugetlb pages of 2 MiB are free on a node; 0 where it does not say.

    A page that moves takes one of them and leaves one behind. Without one the kernel would make one of other
    memory of the node (alloc_migrate_hugetlb_folio(), mm/hugetlb.c, v6.12), where the pool says what it has.
    """
    pool = system.root / f"sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/free_hugepages"
    try:
        return int(system.read_text(pool))
    except (OSError, ValueError):
        return 0
