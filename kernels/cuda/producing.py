"""Requests and records on a device: items staged in pinned memory, put together by folio without a sort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import N_OUTCOMES, Outcome

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

PIECE_ITEMS = 1 << 20
"""Items of a launch at most: longer calls are cut, in order, so what is kept for them is 49 MiB."""
_FIRST_ROOM = 1 << 10
_DROPPED = 0xFFFFFF00
_WAS_READY = np.uint32(1 << 31)


class Producing:
    """What ``request`` and ``record`` of a store work in; grows with the longest call.

    Args:
        kernels: the store.
    """

    def __init__(self, kernels: CudaKernels) -> None:
        self._kernels = kernels
        self._room = 0
        self._counts = kernels.device.host_empty(N_OUTCOMES, np.uint64)
        self._grow(_FIRST_ROOM)

    def _grow(self, n_items: int) -> None:
        device, ordered = self._kernels.device, self._kernels.ordered
        room = min(PIECE_ITEMS, max(n_items, 2 * self._room))
        n_words = room + (room + 1) // 2  # an int64 and an int32 for each
        grown = (
            *(device.host_empty(n_words, np.uint64), device.empty(n_words, np.uint64)),
            *(device.host_empty(room, np.uint8), device.empty(room, np.uint8)),
            # Counts of outcomes, then the table: twice as many slots as items, of 16 bytes each.
            device.empty(N_OUTCOMES + (4 * room if ordered else 0), np.uint64),
            device.empty(room if ordered else 0, np.uint32),
        )
        # All or nothing: where memory lacks, what is there stays as long as the room says.
        self._items_here, self._items_there, self._outcomes_here, self._outcomes_there = grown[:4]
        self._table, self._slots = grown[4:]
        self._room = room

    def run(
        self,
        name: str,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        outcomes: NDArray[np.uint8],
        drop_top_tier: bool,
        decides: dict[str, int],
        *,
        are_there: bool,
    ) -> NDArray[np.int64]:
        """Do one call, in pieces where it is long; return its counts, int64[N_OUTCOMES].

        Called while working.

        Args:
            name: ``request`` or ``record``.
            pfns, nids: int64[n], int32[n].
            outcomes: uint8[n] to fill, or uint8[0].
            drop_top_tier: whether items on top-tier nodes are dropped.
            decides: what the kernel is given besides, by name.
            are_there: items are on the device.
        """
        counts = np.zeros(N_OUTCOMES, dtype=np.int64)
        for lo in range(0, len(pfns), PIECE_ITEMS):
            part = slice(lo, lo + PIECE_ITEMS)
            if min(PIECE_ITEMS, len(pfns) - lo) > self._room:
                self._grow(min(PIECE_ITEMS, len(pfns) - lo))
            items = {"pfns": pfns[part], "nids": nids[part], "n_items": len(pfns[part])}
            if not are_there:
                items = self._stage(pfns[part], nids[part])
            counts += self._piece(name, items, outcomes[part], drop_top_tier, decides)
        return counts

    def _piece(
        self,
        name: str,
        items: dict[str, Any],
        outcomes: NDArray[np.uint8],
        drop_top_tier: bool,
        decides: dict[str, int],
    ) -> NDArray[np.int64]:
        kernels, device, n_items = self._kernels, self._kernels.device, items["n_items"]
        ordered = kernels.ordered
        n_slots = 2 * n_items if ordered else 0
        device.clear(self._table[: N_OUTCOMES + 2 * n_slots])
        table = {
            "n_slots": n_slots,
            "folio_heads": self._table[N_OUTCOMES : N_OUTCOMES + n_slots],
            **dict(zip(("folio_lasts", "folio_notes"), self._halves(n_slots), strict=True)),
            "slots": self._slots,
        }
        if ordered:
            kernels.launch(
                "resolve",
                n_items,
                **items,
                **table,
                drop_top_tier=drop_top_tier,
                notes_count=name == "record",
            )
        kernels.launch(
            name,
            n_items,
            **items,
            **table,
            ordered=ordered,
            outcomes=self._outcomes_there,
            wants_outcomes=len(outcomes) > 0,
            counts=self._table[:N_OUTCOMES],
            **decides,
        )
        device.fetch_into(self._table[:N_OUTCOMES], self._counts)
        if len(outcomes) and ordered and name == "record":
            notes = device.fetch(table["folio_notes"])
            outcomes[:] = _outcomes_of_accesses(device.fetch(self._slots[:n_items]), notes)
        elif len(outcomes):
            device.fetch_into(self._outcomes_there[:n_items], self._outcomes_here[:n_items])
            outcomes[:] = self._outcomes_here[:n_items]
        return self._counts.astype(np.int64)

    def _stage(self, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> dict[str, Any]:
        """Begin to copy items to the device, and return them there; all is over when counts are fetched."""
        n_items = len(pfns)
        end = n_items + (n_items + 1) // 2
        here, there = self._items_here[:end], self._items_there[:end]
        here[:n_items].view(np.int64)[:] = pfns
        here[n_items:].view(np.int32)[:n_items] = nids
        self._kernels.device.write_from(there, here)
        return {
            "pfns": there[:n_items].view(np.int64),
            "nids": there[n_items:].view(np.int32)[:n_items],
            "n_items": n_items,
        }

    def _halves(self, n_slots: int) -> tuple[Any, Any]:
        words = self._table[N_OUTCOMES + n_slots : N_OUTCOMES + 2 * n_slots].view(np.uint32)
        return words[:n_slots], words[n_slots:]


def _outcomes_of_accesses(slots: NDArray[np.uint32], notes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return what became of every access, uint8[n].

    ``Store`` never asks for it, and it takes the accesses of each folio in order: so it is the host's.

    Args:
        slots: uint32[n], the folio of each item, or why it was dropped.
        notes: uint32[n_slots], as the ``record`` kernel leaves them.
    """
    outcomes = (~slots).astype(np.uint8)
    order = np.argsort(slots, kind="stable")
    order = order[: int(np.searchsorted(slots[order], _DROPPED))]
    mine = slots[order]
    begins = np.flatnonzero(np.diff(mine, prepend=np.uint32(_DROPPED)) != 0)
    number = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    below = (notes[mine] & ~_WAS_READY).astype(np.int64)
    accepted = (number == below) & (notes[mine] & _WAS_READY == 0)
    ready = np.where(accepted, Outcome.ACCEPTED, Outcome.REFRESHED)
    outcomes[order] = np.where(number < below, Outcome.COUNTED, ready)
    return outcomes
