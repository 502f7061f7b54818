"""Which memory cgroup the pages of a machine are charged to.

The cgroup of a folio is that of its first page: kernels have said none of the others (page_memcg_check() of
a tail page, include/linux/memcontrol.h, v6.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents
from gpuscan.base.arguments import ArraySpec, check_arrays, items, settle
from gpuscan.base.errors import SnapshotError
from gpuscan.records.page_flags import Frames, Kpf, bits, page_slices

if TYPE_CHECKING:
    from gpuscan.snapshot.snapshot import Snapshot

UNCHARGED = "none"
"""The name of what is charged to no cgroup."""
N_CGROUPS_MAX = 1 << 16
"""The kernel has fewer with memory at a time (MEM_CGROUP_ID_MAX, mm/memcontrol.c, v6.12)."""

_OF_PAGE = (ArraySpec("of_page", "uint16", ("pages",)),)
_ACCESSED = bits(Kpf.REFERENCED, Kpf.ACTIVE)


@dataclass(frozen=True, slots=True, eq=False)
class PageCgroups:
    """The memory cgroup of every page.

    Attributes:
        names: of cgroups: the path below the top of their hierarchy; ``inode 4711`` where none was found with
            that number; ``none`` for what is charged to none. The first one is ``none``.
        of_page: uint16[n_pages], by flat index, which of ``names``; 0 where no page is.
    """

    names: tuple[str, ...]
    of_page: NDArray[np.uint16]

    def __post_init__(self) -> None:
        names = items("cgroups: names", self.names, str, "give paths")
        (of_page,) = check_arrays("cgroups", _OF_PAGE, (self.of_page,), {})
        documents.texts(names, "cgroups: names", len(names))  # as a snapshot is read
        settle(self, names=names, of_page=of_page)
        if not names or names[0] != UNCHARGED or len(names) > N_CGROUPS_MAX or len(set(names)) != len(names):
            raise SnapshotError(
                f"{len(names)} cgroups' names are not {UNCHARGED!r} and up to {N_CGROUPS_MAX - 1:,} others, "
                "each once; give those"
            )
        highest = int(of_page.max()) if len(of_page) else 0
        if highest >= len(names):
            raise SnapshotError(
                f"a page is of cgroup {highest}, and there are {len(names)}; "
                "give an index of names for each page"
            )

    @classmethod
    def merged(cls, names: Iterable[str], of_page: NDArray[np.uint16]) -> PageCgroups:
        """Return it where several cgroups may have one name, which makes them one.

        Args:
            names: of each number in ``of_page``, from 0; the first one is :data:`UNCHARGED`.
            of_page: uint16[n_pages], by flat index.
        """
        number_of: dict[str, int] = {}
        new = [number_of.setdefault(name, len(number_of)) for name in names]
        if len(number_of) < len(new):
            of_page = np.array(new, dtype=np.uint16)[of_page]
        return cls(tuple(number_of), of_page)


@dataclass(frozen=True, slots=True)
class CgroupShare:
    """What is charged to a cgroup, itself without those below it, in pages and folios on LRU lists."""

    cgroup: str
    folios: int
    pages: int
    hot_pages: int

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def shares(cgroups: PageCgroups, frames: Frames) -> list[CgroupShare]:
    """Return what each cgroup has of the folios that can move, the largest first; none that has nothing."""
    n_folios, n_pages, n_hot = (np.zeros(len(cgroups.names), dtype=np.int64) for _ in range(3))
    for part in page_slices(len(cgroups.of_page)):
        heads = np.flatnonzero(frames.eligible[part])
        which = cgroups.of_page[part][heads]
        pages = np.int64(1) << frames.order[part][heads].astype(np.int64)
        np.add.at(n_folios, which, 1)
        np.add.at(n_pages, which, pages)
        np.add.at(n_hot, which, pages * frames.hot[part][heads])
    found = [
        CgroupShare(name, folios, pages, hot)
        for name, folios, pages, hot in zip(
            cgroups.names, n_folios.tolist(), n_pages.tolist(), n_hot.tolist(), strict=True
        )
        if folios
    ]
    return sorted(found, key=lambda share: -share.pages)


def hot_of(snapshot: Snapshot, chosen: Callable[[str], bool]) -> Snapshot:
    """Return a snapshot in which only the hot pages of some cgroups are hot still.

    Args:
        snapshot: of a machine, with cgroups.
        chosen: whether a cgroup is one of them, by its name.
    """
    if snapshot.cgroups is None:
        raise SnapshotError("the snapshot has no cgroups; capture it with --cgroups")
    is_chosen = np.array([chosen(name) for name in snapshot.cgroups.names], dtype=np.bool_)
    flags = snapshot.flags.copy()
    for part in page_slices(len(flags)):
        flags[part][~is_chosen[snapshot.cgroups.of_page[part]]] &= ~_ACCESSED
    return dataclasses.replace(snapshot, flags=flags)
