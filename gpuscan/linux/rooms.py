"""What the nodes can take in one look, shared out folio by folio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.topology import evacuation


class Rooms:
    """The room of nodes, less what was given away of it since the look began.

    A hugetlb page takes one of its pool and nothing of the ordinary room, and the other way round.

    Args:
        room_of: returns the base pages that a node can take.
        huge_pages_of: returns how many hugetlb pages of 2 MiB are free on a node.
    """

    def __init__(self, room_of: Callable[[int], int], huge_pages_of: Callable[[int], int]) -> None:
        self._asked = {False: room_of, True: huge_pages_of}
        self.begin_look()

    def begin_look(self) -> None:
        """Let the nodes be asked anew."""
        self._left: dict[bool, dict[int, int]] = {False: {}, True: {}}
        self._kept = np.empty(0, dtype=np.int64)
        self._kept_nids = np.empty(0, dtype=np.int32)
        """Heads of shared folios that got room, ascending, and where: another who maps them asks, too."""

    def share_out(
        self,
        heads: NDArray[np.int64],
        n_pages: NDArray[np.int64],
        is_hugetlb: NDArray[np.bool_],
        is_shared: NDArray[np.bool_],
        nids: Sequence[int],
    ) -> NDArray[np.int32]:
        """Return int32[n], a node for each folio; :data:`gpuscan.topology.evacuation.NO_ROOM` where none has.

        Args:
            heads: int64[n], distinct: PFN of each folio's first page.
            n_pages: int64[n], base pages of each.
            is_hugetlb: bool[n].
            is_shared: bool[n], others may map them; what got room in this look already keeps that.
            nids: where they may go, the most wanted first.
        """
        targets, is_kept = self._kept_for(heads, is_shared)
        targets[~np.isin(targets, list(nids))] = evacuation.NO_ROOM
        for of_pool in (True, False):
            sizes = np.ones(len(heads), dtype=np.int64) if of_pool else n_pages
            mine = ~is_kept & (is_hugetlb == of_pool)
            # Large ones first: else one that fits nowhere would keep room from all small ones behind it.
            for size in np.unique(sizes[mine])[::-1].tolist():
                which = np.flatnonzero(mine & (sizes == size))
                found = evacuation.share_out(sizes[which], {nid: self._room(nid, of_pool) for nid in nids})
                self._take(found, of_pool, size)
                targets[which] = found
        kept = is_shared & ~is_kept & (targets != evacuation.NO_ROOM)
        place = np.searchsorted(self._kept, heads[kept])
        self._kept = np.insert(self._kept, place, heads[kept])
        self._kept_nids = np.insert(self._kept_nids, place, targets[kept])
        return targets

    def _kept_for(
        self, heads: NDArray[np.int64], is_shared: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return int32[n] and bool[n]: the nodes that folios got already, and which did."""
        targets = np.full(len(heads), evacuation.NO_ROOM, dtype=np.int32)
        if not len(self._kept):
            return targets, np.zeros(len(heads), dtype=np.bool_)
        place = np.minimum(np.searchsorted(self._kept, heads), len(self._kept) - 1)
        is_kept: NDArray[np.bool_] = is_shared & (self._kept[place] == heads)
        targets[is_kept] = self._kept_nids[place[is_kept]]
        return targets, is_kept

    def _room(self, nid: int, of_pool: bool) -> int:
        left = self._left[of_pool]
        if nid not in left:
            left[nid] = max(0, self._asked[of_pool](nid))
        return left[nid]

    def _take(self, targets: NDArray[np.int32], of_pool: bool, size: int) -> None:
        nids, counts = np.unique(targets[targets != evacuation.NO_ROOM], return_counts=True)
        for nid, n in zip(nids.tolist(), counts.tolist(), strict=True):
            self._left[of_pool][nid] -= n * size
