"""What became of every request a design was given: the ledger of losses.

A design keeps a few bits per page, so it cannot tell one request from another. This
ledger can: it keeps the true request of every page beside the design's records. A
request begins when a producer has set READY (or entered the page in a list) and ends
exactly once. Counted in requests::

    requested = pending + in flight + migrated + superseded + lost (by reason)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.base.errors import RunFailedError
from gpuscan.kernels.cpu.atomics import prefetch

OVERWRITTEN_NID = "overwritten nid"
"""A newer request for another node took the place of one that was still pending."""
COUNTED_ANEW = "counted anew for another node"
"""An access from another node made the count begin anew, and the page is not hot any more."""
ALREADY_THERE = "already there"
"""The page was on the node it was asked to go to."""
MASKED_NID = "masked nid"
"""The record could not hold the node, and what it held was the page's own."""
INVALID_NID = "invalid nid"
"""The record named a node that is not there, or the batch was sent to one."""
CONSUMED = "consumed before refusal"
"""The mark was cleared, then the folio was refused at the checks or in ``migrate_pages()``."""
NOT_PROMOTED = "consumed before the rate limit"
"""The record was zeroed, then the threshold or the rate limit refused the folio."""
STALE = "stale: freed or reallocated"
"""The folio that was asked for is gone."""
STRANDED = "stranded by a cleared section bit"
"""READY, but nothing makes the thread look at its section again."""
OVERFLOW = "list overflow"
"""A list had no room for it."""
HEAP_FULL = "heap full"
"""A heap had no room for it: the page has to be accessed once more when there is."""
NO_HEAP = "no heap for the target"
"""No thread runs on the node that it named, so that node has no heap."""
NO_TARGET = "no node of the top tier"
"""Nobody knew a target, and no node of the top tier has memory."""
FREQ_WRAPPED = "frequency wrapped around"
"""One access more than the counter holds made a hot page look as if it had never been accessed."""
COOLED = "a new window before it was found"
"""An access long after the one before made the count begin anew."""
BEHIND_A_COOL_HEAD = "behind a cool head of the heap"
"""In a heap whose first entry is not hot, and the thread looks no further."""
NO_THREAD = "no thread on its node"
"""The node's memory came after the threads were started."""
STRANDED_ZONE = "stranded by a cleared zone flag"
"""The same with a zone's flag."""

NOBODY = -2
"""In arrays of nodes that were asked for: nobody asked."""
_NONE, _SHIFT = 0, 2
_AHEAD = 16
"""How many requests before its own the line of a page is asked for."""


@compiled
def ask_all(
    asked: NDArray[np.int16],
    positions: NDArray[np.int64],
    nids: NDArray[np.int32],
    keeps_nid: bool,  # compiled functions take arguments by place
) -> tuple[int, int]:
    """Do :meth:`RequestLedger.ask` for each; return how many pages had no request, and how many the same."""
    n_fresh = n_same = 0
    for i in range(len(positions)):
        if i + _AHEAD < len(positions):
            prefetch(asked, positions[i + _AHEAD])
        before, word = asked[positions[i]], nids[i] + _SHIFT
        if before == _NONE:
            n_fresh += 1
        elif before == word or not keeps_nid:
            n_same += 1
        asked[positions[i]] = word
    return n_fresh, n_same


class RequestLedger:
    """Requests of one design, by the position of the marked page.

    Args:
        n_positions: of the machine; it grows where that was too little.

    Attributes:
        requested, pending, migrated, superseded: requests. ``superseded``: a newer request for the same node.
        elsewhere: those of ``migrated`` that went to another node than asked for.
        lost: requests that ended without a move, by reason.
        in_flight: claimed, not decided yet.
        stale_claims: marks claimed that nobody asked for: the folio they were set for is gone.
    """

    def __init__(self, n_positions: int = 0) -> None:
        self.requested = 0
        self.migrated = 0
        self.elsewhere = 0
        self.superseded = 0
        self.lost: Counter[str] = Counter()
        self.in_flight = 0
        self.stale_claims = 0
        self.pending = 0
        # By position, 0 where nothing is asked for, else the node + 2. Pages never asked for take no memory.
        self._open = np.zeros(n_positions, dtype=np.int16)

    def ask(self, position: int, nid: int, *, keeps_nid: bool = True, time_ns: int | None = None) -> None:
        """Begin a request; one that the page had already ends.

        Args:
            position, nid: page and node.
            keeps_nid: the design has a place for the node; otherwise there is nothing to overwrite.
            time_ns: when, where that is told.
        """
        self._make_room(position)
        before = self._open.item(position)
        self.requested += 1
        if before == _NONE:
            self.pending += 1
        elif before == nid + _SHIFT or not keeps_nid:
            self.superseded += 1
        else:
            self.lost[OVERWRITTEN_NID] += 1
        self._open[position] = nid + _SHIFT

    def ask_many(
        self,
        positions: NDArray[np.int64],
        nids: NDArray[np.int32],
        *,
        keeps_nid: bool = True,
        times_ns: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin requests, one after the other: see :meth:`ask`."""
        if not len(positions):
            return
        self._make_room(int(positions.max()))
        n_fresh, n_same = ask_all(self._open, positions, nids.astype(np.int32), keeps_nid)
        n_other = len(positions) - n_fresh - n_same
        self.requested += len(positions)
        self.pending += n_fresh
        self.superseded += n_same
        if n_other:
            self.lost[OVERWRITTEN_NID] += n_other

    def refuse(self, reason: str, n: int = 1) -> None:
        """Book requests that found no room; older ones of their pages stand."""
        self.requested += n
        self.lost[reason] += n

    def claim(self, position: int) -> int | None:
        """Take the request of a page whose mark was cleared; None where the mark had outlived its folio."""
        nid = self._close(position)
        if nid is None:
            self.stale_claims += 1
        else:
            self.in_flight += 1
        return nid

    def claim_many(
        self,
        positions: NDArray[np.int64],
        n_to_come: NDArray[np.int64] | None = None,
        stops: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int32]:
        """Take the requests of pages that are all different, in this order: see :meth:`claim`.

        Args:
            positions: int64[n].
            n_to_come, stops: see :class:`gpuscan.designs.taking.Window`.

        Returns:
            The node that each asks for, :data:`NOBODY` where the mark had outlived its folio.
        """
        asked = self._close_many(positions)
        n_asked = int(np.count_nonzero(asked != NOBODY))
        self.stale_claims += len(positions) - n_asked
        self.in_flight += n_asked
        return asked

    def wanted(self, position: int) -> int | None:
        """Return the node that a pending request of a page asks for."""
        word = self._open.item(position) if position < len(self._open) else _NONE
        return None if word == _NONE else word - _SHIFT

    def moved(self, asked: int | None, nid: int) -> None:
        """End a claimed request whose folio went to ``nid``."""
        if asked is None:
            return
        self.in_flight -= 1
        self.migrated += 1
        self.elsewhere += asked != nid

    def moved_many(self, asked: NDArray[np.int32], nids: int | NDArray[np.int64]) -> None:
        """End claimed requests whose folios went to ``nids``; :data:`NOBODY` stands for none."""
        real = asked != NOBODY
        n_moved = int(np.count_nonzero(real))
        self.in_flight -= n_moved
        self.migrated += n_moved
        self.elsewhere += int(np.count_nonzero(real & (asked != nids)))

    def lose(self, asked: int | None, reason: str) -> None:
        """End a claimed request without a move."""
        if asked is None:
            return
        self.in_flight -= 1
        self.lost[reason] += 1

    def lose_many(self, asked: NDArray[np.int32], reason: str) -> None:
        """End claimed requests without a move; :data:`NOBODY` stands for none."""
        n_lost = int(np.count_nonzero(asked != NOBODY))
        if n_lost:
            self.in_flight -= n_lost
            self.lost[reason] += n_lost

    def end_pending(self, position: int, reason: str) -> bool:
        """End the pending request of a page, if there is one; return whether there was."""
        if self._close(position) is None:
            return False
        self.lost[reason] += 1
        return True

    def end_pending_many(self, positions: NDArray[np.int64], reason: str) -> None:
        """End the pending requests of pages that are all different, where there are any."""
        n_ended = int(np.count_nonzero(self._close_many(positions) != NOBODY))
        if n_ended:
            self.lost[reason] += n_ended

    def pending_positions(self) -> NDArray[np.int64]:
        """Return int64[n], the pages with a pending request, ascending."""
        return np.flatnonzero(self._open)

    def _close(self, position: int) -> int | None:
        """Take out the pending request of a page, and return its node."""
        nid = self.wanted(position)
        if nid is not None:
            self._open[position] = _NONE
            self.pending -= 1
        return nid

    def _close_many(self, positions: NDArray[np.int64]) -> NDArray[np.int32]:
        """Do so for pages that are all different; :data:`NOBODY` where there is none."""
        if len(positions):
            self._make_room(int(positions.max()))
        asked = self._open[positions] - np.int32(_SHIFT)
        self._open[positions] = _NONE
        self.pending -= int(np.count_nonzero(asked != NOBODY))
        return asked

    def _is_free(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return where no request is pending; there must be room for the positions."""
        free: NDArray[np.bool_] = self._open[positions] == _NONE
        return free

    def _make_room(self, position: int) -> None:
        if position >= len(self._open):
            self._open = np.concatenate((self._open, np.zeros(position + 1, dtype=np.int16)))

    def verify(self, findable: NDArray[np.bool_] | None = None) -> None:
        """Prove conservation.

        Args:
            findable: bool per element of :meth:`pending_positions`: the design still knows the page.

        Raises:
            RunFailedError: a request was lost without a reason, or counted twice.
        """
        ended = self.migrated + self.superseded + self.lost.total()
        forgotten = 0 if findable is None else int((~findable).sum())
        if self.requested != self.pending + self.in_flight + ended or forgotten:
            raise RunFailedError(
                f"conservation broke: {self.requested} requests, {self.pending} pending ({forgotten} of them "
                f"unknown to the design), {self.in_flight} in flight, {ended} ended; this is a bug in "
                "gpuscan, report it with the workload and the seed"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, reasons sorted by count."""
        return {
            "requested": self.requested,
            "pending": self.pending,
            "in_flight": self.in_flight,
            "migrated": self.migrated,
            "elsewhere": self.elsewhere,
            "superseded": self.superseded,
            "lost": dict(self.lost.most_common()),
            "stale_claims": self.stale_claims,
        }
