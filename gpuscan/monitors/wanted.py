"""Folios that are to move, on their way from what a look found to what the store is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.address_map import Trait


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Folios, ascending by head.

    Attributes:
        head, order: int64[n].
        address: int64[n], of a mapped page of each.
        nid: int32[n], where it is to go.
        process: int64[n], the number of the process that stands for it.
        traits: int64[n], bits of :class:`gpuscan.linux.address_map.Trait`.
    """

    head: NDArray[np.int64]
    order: NDArray[np.int64]
    address: NDArray[np.int64]
    nid: NDArray[np.int32]
    process: NDArray[np.int64]
    traits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.head)

    @property
    def is_shared(self) -> NDArray[np.bool_]:
        """bool[n]: which are mapped by several processes."""
        found: NDArray[np.bool_] = (self.traits & int(Trait.SHARED)) != 0
        return found

    @property
    def n_pages(self) -> NDArray[np.int64]:
        """int64[n]: their base pages."""
        return np.int64(1) << self.order

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Wanted:
        """Return a part of them."""
        return Wanted(
            self.head[which],
            self.order[which],
            self.address[which],
            self.nid[which],
            self.process[which],
            self.traits[which],
        )

    def stood_for(
        self,
        which: NDArray[np.intp],
        process: NDArray[np.int64],
        address: NDArray[np.int64],
        traits: NDArray[np.int64],
    ) -> Wanted:
        """Return them with other processes that stand for some, with their addresses and more traits."""
        processes, addresses, all_traits = self.process.copy(), self.address.copy(), self.traits.copy()
        processes[which], addresses[which] = process, address
        all_traits[which] |= traits
        return replace(self, process=processes, address=addresses, traits=all_traits)
