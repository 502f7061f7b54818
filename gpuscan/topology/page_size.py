"""Base pages of a machine's kernel, where they are not of 4 KiB: arm64 and ppc64 have 16 and 64 KiB, too.

gpuscan counts all memory in pages of :data:`gpuscan.base.units.PAGE_BYTES`. Sizes in kB and addresses mean
the same on every machine; counts of pages and PFNs, as /proc/zoneinfo has them, are counted anew here.
"""

from __future__ import annotations

import dataclasses
import re

from gpuscan.base.errors import TopologyError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.topology.file_tree import GATHERED, NODES, FileTree
from gpuscan.topology.zoneinfo import ZoneInfo

_SIZES = tuple(PAGE_BYTES << shift for shift in range(7))
_TOLERANCE = 8
"""What a node has in kB and in pages may differ by an eighth: memory comes and goes between two files."""


def page_bytes_of(files: FileTree, zoneinfo: list[ZoneInfo]) -> int:
    """Return how large the base pages of a machine's kernel are, as far as its files say.

    Its nodes have their memory in kB (``nodeN/meminfo``) and in pages (``managed`` in /proc/zoneinfo), which
    are the same pages (si_meminfo_node(), mm/show_mem.c, v6.18).

    Raises:
        TopologyError: the two do not fit each other, or what is said besides.
    """
    stated = re.search(r"^PageSize:\s*([0-9]{1,9})\s*$", files.read(GATHERED) or "", re.M)
    sizes = {_check(int(stated[1]), files.place(GATHERED))} if stated else set()
    for nid in sorted({zone.nid for zone in zoneinfo}):
        n_managed = sum(zone.managed for zone in zoneinfo if zone.nid == nid)
        n_bytes = memory_of_node(files, nid)
        if n_managed and n_bytes:
            fits = [size for size in _SIZES if abs(size * n_managed - n_bytes) * _TOLERANCE <= n_bytes]
            if not fits or (sizes and fits[0] not in sizes):
                raise TopologyError(
                    f"node {nid} has {format_bytes(n_bytes)} in {files.place(f'{NODES}/node{nid}/meminfo')} "
                    f"and {n_managed} managed pages in /proc/zoneinfo, which are no pages of "
                    f"{' or '.join(map(format_bytes, sorted(sizes or _SIZES)))}; give files of one machine"
                )
            sizes.add(fits[0])
    return sizes.pop() if sizes else PAGE_BYTES


def memory_of_node(files: FileTree, nid: int) -> int | None:
    """Return the bytes of ``MemTotal`` of a node; None where it does not say.

    Raises:
        TopologyError: the file is no nodeN/meminfo.
    """
    name = f"{NODES}/node{nid}/meminfo"
    text = files.read(name)
    if text is None:
        return None
    match = re.search(r"^Node\s+([0-9]{1,6})\s+MemTotal:\s+([0-9]{1,15}) kB\s*$", text, re.M)
    if match is None:
        raise TopologyError(
            f"{files.place(name)} has no line 'Node {nid} MemTotal: ... kB'; "
            "give the file as the kernel writes it"
        )
    return int(match[2]) << 10


def in_our_pages(zoneinfo: list[ZoneInfo], page_bytes: int) -> list[ZoneInfo]:
    """Return zones counted in pages of :data:`gpuscan.base.units.PAGE_BYTES`."""
    scale = page_bytes // PAGE_BYTES
    if scale == 1:
        return zoneinfo
    counts = ("free", "min", "low", "high", "spanned", "present", "managed", "start_pfn")
    return [
        dataclasses.replace(
            zone,
            promo=None if zone.promo is None else zone.promo * scale,
            protection=tuple(n * scale for n in zone.protection),
            **{name: getattr(zone, name) * scale for name in counts},
        )
        for zone in zoneinfo
    ]


def said_of(page_bytes: int) -> list[str]:
    """Return what is to be said of pages of another size."""
    if page_bytes == PAGE_BYTES:
        return []
    return [
        f"its kernel has pages of {format_bytes(page_bytes)}, and its memory is counted in pages of "
        f"{format_bytes(PAGE_BYTES)} here: what is marked and moved on it is 1/{page_bytes // PAGE_BYTES} "
        "of a page of that kernel"
    ]


def check_page_size(page_bytes: int, what: str) -> None:
    """Refuse what goes over pages as the kernel numbers them, where those are not of our size.

    Args:
        page_bytes: of the machine.
        what: cannot be done, such as ``capture``.

    Raises:
        TopologyError: they are not.
    """
    if page_bytes != PAGE_BYTES:
        raise TopologyError(
            f"this machine has pages of {format_bytes(page_bytes)} and {what} counts in "
            f"{format_bytes(PAGE_BYTES)}; boot a kernel with 4 KiB pages, or simulate "
            "the machine (gpuscan topology shows it)"
        )


def _check(page_bytes: int, place: str) -> int:
    if page_bytes not in _SIZES:
        raise TopologyError(
            f"{place}: pages of {page_bytes} bytes are none that gpuscan knows "
            f"({', '.join(map(format_bytes, _SIZES))}); read again"
        )
    return page_bytes
