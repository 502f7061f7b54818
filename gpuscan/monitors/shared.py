"""Which pages that several processes map may move: where all of those are watched, and agree.

A look counts once for a page, whoever of them accessed it: over the looks their accesses add up. A page is
cold where it is cold for each of them. One of them, always the same, stands for the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.address_map import Trait
from gpuscan.linux.numa import Allowance
from gpuscan.linux.process import Process
from gpuscan.linux.sharing import Mappings, Sharing, rows
from gpuscan.monitors.treatment import Treatment, Way
from gpuscan.monitors.wanted import Wanted

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Sharer:
    """A process that is watched, as one of those that may map a page.

    Attributes:
        number: its own in the address map.
        process: it.
        allowance: where its memory may be.
        treatment: what may be done with it.
    """

    number: int
    process: Process
    allowance: Allowance
    treatment: Treatment


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What is to be done with shared folios.

    Attributes:
        is_known: bool[n], all who map it are watched, or it does not matter.
        is_agreed: bool[n], and all of those may have it there.
        is_cold: bool[n], and none of those has accessed it for long.
        process, address: int64[n], who stands for it, and where it has it.
        traits: int64[n], bits of :class:`gpuscan.linux.address_map.Trait` that it has besides.
    """

    is_known: NDArray[np.bool_]
    is_agreed: NDArray[np.bool_]
    is_cold: NDArray[np.bool_]
    process: NDArray[np.int64]
    address: NDArray[np.int64]
    traits: NDArray[np.int64]


class SharedPages:
    """Judges shared folios in one look after the other.

    Args:
        sharing: what is known of who maps which page.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._sharers: dict[int, Sharer] = {}
        self._cold_parts: Sequence[NDArray[np.int64]] = ()
        self._cold = _NONE
        self._counted = _NONE
        self._judged: list[Wanted] = []
        self._looked_for: list[Wanted] = []
        self._is_up_to_date = False

    def begin(self, sharers: Sequence[Sharer], cold: Sequence[NDArray[np.int64]]) -> None:
        """Begin a look.

        Args:
            sharers: who is watched.
            cold: of each sharer int64[n], the PFNs of its cold pages.
        """
        self._sharers = {one.number: one for one in sharers}
        self._counted = _NONE
        if self._judged:
            self._looked_for, self._judged = self._judged, []
        self._cold_parts, self._cold = cold, _NONE
        self._is_up_to_date = False

    def bring_up_to_date(self) -> None:
        """Take in who maps what, once a look; who maps what was judged last is looked for again.

        Most looks have no shared page that could move, and page tables take long to read.
        """
        if self._is_up_to_date or self._sharing.why_not():
            return
        self._is_up_to_date = True
        self._cold = np.sort(np.concatenate([_NONE, *self._cold_parts]))
        sharers, judged = self._sharers.values(), self._looked_for
        self._looked_for = []
        self._sharing.read((one.number, one.process, one.allowance.shared) for one in sharers)
        self._sharing.look_again(
            np.concatenate([_NONE, *(folios.head for folios in judged)]),
            np.concatenate([_NONE, *(folios.address for folios in judged)]),
            {one.number: one.process for one in sharers},
        )

    def keep(self, numbers: Sequence[int]) -> None:
        """Forget what others than these map."""
        self._sharing.keep(numbers)

    def why_not(self) -> str:
        """Return why no shared page can be moved; empty where they can."""
        return self._sharing.why_not()

    def first_time(self, heads: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[n]: which shared folios nobody was seen accessing in this look before."""
        fresh: NDArray[np.bool_] = ~np.isin(heads, self._counted)
        self._counted = np.append(self._counted, heads[fresh])
        return fresh

    def judge(self, number: int, wanted: Wanted, way: Way) -> Verdict:
        """Judge folios that one process was seen with.

        Args:
            number: of the process.
            wanted: the folios.
            way: why they are to move.
        """
        heads, orders = wanted.head, wanted.order
        mappings = self._sharing.mappings
        first, end = mappings.bounds(heads, orders)
        n_found = end - first
        is_hugetlb = wanted.traits & int(Trait.HUGETLB) != 0
        is_watched = self._sharing.are_watched(heads, orders, is_hugetlb)
        always = self._sharers[number].treatment.shared == "always"
        if not always:
            self._judged.append(wanted.take(orders == 0))
        n_cold = np.searchsorted(self._cold, heads + wanted.n_pages) - np.searchsorted(self._cold, heads)
        process, address = wanted.process.copy(), wanted.address.copy()
        has = n_found > 0
        process[has], address[has] = mappings.process[first[has]], mappings.address[first[has]]
        traits = np.where(is_watched, 0, int(Trait.ALWAYS))
        return Verdict(
            is_watched if not always else np.ones(len(heads), dtype=np.bool_),
            self._agree(mappings, first, end, wanted.nid, way),
            n_cold >= n_found,
            process,
            address,
            traits,
        )

    def may_have(self, wanted: Wanted, nid: int, way: Way) -> NDArray[np.bool_]:
        """Return bool[n]: which folios all may have on a node who were found to map them."""
        mappings = self._sharing.mappings
        bounds = mappings.bounds(wanted.head, wanted.order)
        return self._agree(mappings, *bounds, np.full(len(wanted), nid, dtype=np.int32), way)

    def _agree(
        self,
        mappings: Mappings,
        first: NDArray[np.intp],
        end: NDArray[np.intp],
        nids: NDArray[np.int32],
        way: Way,
    ) -> NDArray[np.bool_]:
        """Return bool[n]: which folios all may have there who were found to map them."""
        folio, which = rows(first, end)
        mine = mappings.take(which)
        is_fine = np.zeros(len(mine), dtype=np.bool_)
        for number in np.unique(mine.process).tolist():
            sharer = self._sharers.get(number)
            if sharer is None or not _takes_part(sharer.treatment, way):
                continue
            own = np.flatnonzero(mine.process == number)
            policy = sharer.allowance.policy_of(mine.address[own])
            for each in np.unique(policy).tolist():
                allowed = sharer.allowance.nids
                for limit in (sharer.treatment.nids, sharer.allowance.policies[each]):
                    allowed = allowed if limit is None else allowed & limit
                here = own[policy == each]
                is_fine[here] = np.isin(nids[folio[here]], list(allowed))
        agreed: NDArray[np.bool_] = np.bincount(folio[~is_fine], minlength=len(first)) == 0
        return agreed


def _takes_part(treatment: Treatment, way: Way) -> bool:
    if treatment.shared == "never":
        return False
    return way == "out" or (treatment.promotes if way == "up" else treatment.demotes)
