"""Virtual pages and the frames behind them: page table, reverse map, frame flags.

All processes share one numbering of *virtual folios*. A process owns one
contiguous run of them, made of mappings, each with one folio order. Every virtual
folio is mapped by exactly one process and has a frame at all times, so page table
and reverse map are inverse to each other:

    frame_of[folio] = head frame          folio_of[head frame] = folio

With 4 KiB folios that is 4 + 4 bytes a page and 1 for the flags of the frame (in
:mod:`gpuscan.sim.loops`), up to 2**32 - 1 frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.frames import index_dtype
from gpuscan.sim.loops import PROT_NONE


@dataclass(frozen=True, slots=True)
class Mapping:
    """A run of virtual folios of one order (a VMA).

    Attributes:
        first_folio, n_folios: which ones.
        order: of each folio.
    """

    first_folio: int
    n_folios: int
    order: int

    @property
    def n_pages(self) -> int:
        """Base pages."""
        return self.n_folios << self.order


class AddressSpace:
    """All virtual folios of a machine.

    Args:
        mappings: ascending and gapless from folio 0.
        n_frames: size of the flat index.

    Attributes:
        frame_of: unsigned[n_folios], head frame of each folio.
        folio_of: unsigned[n_frames], folio whose head is in the frame, else ``nothing``.
        flags: uint8[n_frames], of head frames.
        nothing: largest value of the arrays' dtype.
    """

    def __init__(self, mappings: tuple[Mapping, ...], n_frames: int) -> None:
        self.mappings = mappings
        self.n_folios = sum(mapping.n_folios for mapping in mappings)
        dtype = index_dtype(max(n_frames, self.n_folios))
        self.nothing: Any = dtype.type(np.iinfo(dtype).max)
        self.frame_of: NDArray[Any] = np.full(self.n_folios, self.nothing, dtype=dtype)
        self.folio_of: NDArray[Any] = np.full(n_frames, self.nothing, dtype=dtype)
        self.flags = np.zeros(n_frames, dtype=np.uint8)
        self._starts = np.array([mapping.first_folio for mapping in mappings], dtype=np.int64)
        self._orders = np.array([mapping.order for mapping in mappings], dtype=np.int64)

    @property
    def n_bytes(self) -> int:
        """Memory the arrays take."""
        return self.frame_of.nbytes + self.folio_of.nbytes + self.flags.nbytes

    def map(self, first_folio: int, frames: NDArray[np.int64]) -> None:
        """Put folios ``first_folio``... on ``frames`` (heads)."""
        end = first_folio + len(frames)
        self.frame_of[first_folio:end] = frames
        self.folio_of[frames] = np.arange(first_folio, end, dtype=self.frame_of.dtype)

    def folios_at(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the folio whose head is in each frame, -1 where there is none."""
        folios = self.folio_of[frames]
        return np.where(folios == self.nothing, -1, folios.astype(np.int64))

    def orders_of(self, folios: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the order of folios; any for the folio -1."""
        if len(self._orders) == 1:
            return np.full(len(folios), self._orders[0])
        return self._orders[np.searchsorted(self._starts, folios, side="right") - 1]

    def move(self, folios: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put folios on other frames (heads) and return the old ones.

        The flags go along but for PROT_NONE: remove_migration_pte() in mm/migrate.c makes
        the new PTE with the VMA's own protection.
        """
        old = self.frame_of[folios].astype(np.int64)
        self.flags[frames] = self.flags[old] & ~np.uint8(PROT_NONE)
        self.flags[old] = 0
        self.folio_of[old] = self.nothing
        self.frame_of[folios] = frames
        self.folio_of[frames] = folios
        return old
