"""A snapshot from a kernel's memory: a dump of it (a vmcore), or that of the kernel that runs (/proc/kcore).

:mod:`gpuscan.snapshot.drgn_kernel` finds the things; here they become flags and counts, and a machine by the
code that reads one from /proc and /sys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, check_room
from gpuscan.records.page_flags import NO_PAGE
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot.cgroups import N_CGROUPS_MAX, UNCHARGED, PageCgroups
from gpuscan.snapshot.snapshot import ARRAY_BYTES, Snapshot
from gpuscan.snapshot.struct_pages import PageLayout, page_words
from gpuscan.topology.file_tree import FileTree
from gpuscan.topology.page_size import check_page_size
from gpuscan.topology.sysfs import read_tree

_STRETCH_PAGES = 4 * SECTION_PAGES
"""Read at once: 8 MiB of ``struct page``."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelMemory:
    """What a snapshot needs of a kernel's memory.

    Attributes:
        files: what its /proc and /sys would say of the machine.
        page_bytes: of a page of it.
        layout: of its ``struct page``.
        arrays: where these are: first PFN, PFN after the last, address of the first one's.
        read: gives bytes at an address; raises :class:`InputError` where they cannot be read.
        cgroup_of: gives the name of a memory cgroup by the address of its ``struct mem_cgroup``.
        kernel_release, hz, lru_gen, captured_at: as of a snapshot; the latter is the time on its clock.
    """

    files: FileTree
    page_bytes: int
    layout: PageLayout
    arrays: Sequence[tuple[int, int, int]]
    read: Callable[[int, int], bytes]
    cgroup_of: Callable[[int], str]
    kernel_release: str
    hz: int | None
    lru_gen: bool
    captured_at: str


def snapshot_of(
    kernel: KernelMemory, progress: Progress | None = None, *, with_cgroups: bool = False
) -> Snapshot:
    """Return the page flags that a kernel had.

    Args:
        kernel: its memory.
        progress: called with the pages read by now and the pages there are.
        with_cgroups: keep which memory cgroup each page is charged to.

    Raises:
        InputError: the memory cannot be read, names more cgroups than a kernel has, or would take too much of
            this machine's.
        TopologyError: its zones and nodes do not fit together, or pages are not 4 KiB.
    """
    check_page_size(kernel.page_bytes, "capture")
    host = read_tree(kernel.files, "host", kernel.page_bytes)
    page_map = host.topology.page_map
    try:
        check_room(page_map.n_pages * ARRAY_BYTES)
    except UnfitError as error:
        raise InputError(f"the machine of the dump {error}; read it on one that has more") from error
    flags = np.full(page_map.n_pages, NO_PAGE)
    mapcounts = np.zeros(page_map.n_pages, dtype=np.uint32)
    charged = _Charged(page_map.n_pages) if with_cgroups else None
    n_done = 0
    for start, end, address in kernel.arrays:
        for low in range(start, end, _STRETCH_PAGES):
            high = min(low + _STRETCH_PAGES, end)
            at = address + (low - start) * kernel.layout.size
            words = page_words(kernel.read(at, (high - low) * kernel.layout.size), at, kernel.layout)
            flat = page_map.flat_of_pfn(np.arange(low, high, dtype=np.int64))
            is_here = flat >= 0
            flags[flat[is_here]] = words.flags[is_here]
            mapcounts[flat[is_here]] = words.mapcounts[is_here]
            if charged is not None:
                charged.add(flat[is_here], words.memcg[is_here])
            n_done += int(np.count_nonzero(is_here))
            if progress is not None:
                progress(n_done, page_map.n_present_pages)
    notes = list(host.notes)
    if n_done < page_map.n_present_pages:
        notes.append(
            f"{page_map.n_present_pages - n_done} present pages have no struct page, taken as no page"
        )
    return Snapshot(
        topology=host.topology,
        flags=flags,
        mapcounts=mapcounts,
        kernel_release=kernel.kernel_release,
        hz=kernel.hz,
        lru_gen=kernel.lru_gen,
        captured_at=kernel.captured_at,
        notes=tuple(notes),
        cgroups=None if charged is None else charged.named(kernel.cgroup_of),
    )


class _Charged:
    """Which memory cgroup each page is charged to, by the address of its ``struct mem_cgroup``."""

    def __init__(self, n_pages: int) -> None:
        self._of_page = np.zeros(n_pages, dtype=np.uint16)
        self._number_of = {0: 0}

    def add(self, flat: NDArray[np.int64], memcg: NDArray[np.uint64]) -> None:
        """Note what is said of some pages."""
        addresses, which = np.unique(memcg, return_inverse=True)
        numbers = [self._number_of.setdefault(each, len(self._number_of)) for each in addresses.tolist()]
        if len(self._number_of) > N_CGROUPS_MAX:
            raise InputError(
                f"the pages are charged to more than {N_CGROUPS_MAX - 1:,} cgroups, which no kernel has; "
                "give the debug information of this very kernel, or make the dump again"
            )
        self._of_page[flat] = np.array(numbers, dtype=np.uint16)[which]

    def named(self, name_of: Callable[[int], str]) -> PageCgroups:
        """Return it with names; cgroups of one name, such as those that were removed, are one."""
        names = (name_of(address) if address else UNCHARGED for address in self._number_of)
        return PageCgroups.merged(names, self._of_page)
