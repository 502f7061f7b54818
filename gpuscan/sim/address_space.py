"""Virtual pages and the frames behind them: page table, reverse map, frame flags.

All processes share one numbering of *virtual folios*. A process owns one
contiguous run of them, made of mappings, each with one folio order. Every virtual
folio is mapped by exactly one process and has a frame at all times, so page table
and reverse map are inverse to each other:

    frame_of[folio] = head frame          folio_of[head frame] = folio + 1

Where all folios are large, frames are counted in *slots* of the smallest order: heads lie at the
start of a slot, so one entry a slot is enough. Slots without a folio have a 0 there, which was
never written where memory was never used: it costs address space and no memory.

With 4 KiB folios that is 4 + 4 bytes a page and 1 for the flags of the frame (in
:mod:`gpuscan.sim.loops`), up to 2**32 frames; with 2 MiB folios a few bytes for each of them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import array, table
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
        slot_shift: log2 of the frames of a slot, the smallest order of all mappings.
        folio_of: unsigned[n_slots], one more than the folio whose head is in the slot, else ``nothing``.
        flags: uint8[n_slots], of the folio whose head is in the slot.
        nothing: 0.
    """

    def __init__(self, mappings: tuple[Mapping, ...], n_frames: int) -> None:
        self.mappings = mappings
        self.n_folios = sum(mapping.n_folios for mapping in mappings)
        self.slot_shift = min(mapping.order for mapping in mappings)
        n_slots = -(-n_frames >> self.slot_shift)
        self.frame_of: NDArray[Any] = np.zeros(self.n_folios, dtype=index_dtype(n_frames))
        self.folio_of: NDArray[Any] = np.zeros(n_slots, dtype=index_dtype(self.n_folios + 1))
        self.nothing: Any = self.folio_of.dtype.type(0)
        self.flags = np.zeros(n_slots, dtype=np.uint8)
        self._slot_mask = (1 << self.slot_shift) - 1
        self._first_folios = [mapping.first_folio for mapping in mappings]
        self._starts = np.array(self._first_folios, dtype=np.int64)
        self._orders = np.array([mapping.order for mapping in mappings], dtype=np.int64)
        self._one_order = len({mapping.order for mapping in mappings}) == 1

    @property
    def n_bytes(self) -> int:
        """Memory the arrays take."""
        return self.frame_of.nbytes + self.folio_of.nbytes + self.flags.nbytes

    def map(self, first_folio: int, frames: NDArray[np.int64]) -> None:
        """Put folios ``first_folio``... on ``frames`` (heads)."""
        end = first_folio + len(frames)
        self.frame_of[first_folio:end] = frames
        self.folio_of[self.slots_of(frames)] = np.arange(first_folio + 1, end + 1, dtype=self.folio_of.dtype)

    def slots_of(self, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slot of each head frame: where its folio is in :attr:`folio_of` and :attr:`flags`."""
        return heads >> self.slot_shift

    def folio_at(self, frame: int) -> int:
        """Return the folio whose head is in a frame, -1 where there is none."""
        if frame & self._slot_mask:
            return -1
        return int(self.folio_of.item(frame >> self.slot_shift)) - 1

    def folios_at(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the folio whose head is in each frame, -1 where there is none."""
        folios: NDArray[np.int64] = self.folio_of[self.slots_of(frames)].astype(np.int64) - 1
        folios[frames & self._slot_mask != 0] = -1
        return folios

    def orders_of(self, folios: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the order of folios; any for the folio -1."""
        if self._one_order:
            return np.full(len(folios), self._orders[0])
        return self._orders[np.searchsorted(self._starts, folios, side="right") - 1]

    def order_of(self, folio: int) -> int:
        """Return the order of one folio."""
        if len(self.mappings) == 1:
            return self.mappings[0].order
        return self.mappings[bisect_right(self._first_folios, folio) - 1].order

    def move(self, folios: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put folios on other frames (heads) and return the old ones.

        The flags go along but for PROT_NONE: remove_migration_pte() in mm/migrate.c makes
        the new PTE with the VMA's own protection.
        """
        old = self.frame_of[folios].astype(np.int64)
        old_slots, slots = self.slots_of(old), self.slots_of(frames)
        self.flags[slots] = self.flags[old_slots] & ~np.uint8(PROT_NONE)
        self.flags[old_slots] = 0
        self.folio_of[old_slots] = self.nothing
        self.frame_of[folios] = frames
        self.folio_of[slots] = folios + 1
        return old

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`: the arrays themselves, not copies."""
        return {"frame_of": self.frame_of, "flags": self.flags}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state` was taken of, a space of the same mappings and frames.

        Raises:
            ValueError: it was of others: an array of another kind, or two folios in one frame.
        """
        found = table(state, "the address space", ("frame_of", "flags"))
        n_slots, folios = len(self.flags), np.arange(1, self.n_folios + 1, dtype=self.folio_of.dtype)
        frame_of = array(
            found["frame_of"],
            self.frame_of.dtype,
            "frame_of",
            n=self.n_folios,
            lowest=0,
            end=n_slots << self.slot_shift,
        )
        flags = array(found["flags"], np.uint8, "the flags of frames", n=n_slots)
        if (frame_of & frame_of.dtype.type(self._slot_mask)).any():
            raise ValueError("frame_of has a folio that begins in the middle of a slot")
        self.frame_of[:] = frame_of
        self.flags[:] = flags
        self.folio_of[:] = self.nothing
        slots = self.frame_of >> self.slot_shift
        self.folio_of[slots] = folios
        if (self.folio_of[slots] != folios).any():
            raise ValueError("frame_of has two folios in one frame")
