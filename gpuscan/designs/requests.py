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

from gpuscan.base.errors import RunFailedError

OVERWRITTEN_NID = "overwritten nid"
"""A newer request for another node took the place of one that was still pending."""
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


class RequestLedger:
    """Requests of one design, by the position of the marked page.

    Attributes:
        requested, migrated, superseded: requests. ``superseded``: a newer request for the same node.
        elsewhere: those of ``migrated`` that went to another node than asked for.
        lost: requests that ended without a move, by reason.
        in_flight: claimed, not decided yet.
        stale_claims: marks claimed that nobody asked for: the folio they were set for is gone.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.migrated = 0
        self.elsewhere = 0
        self.superseded = 0
        self.lost: Counter[str] = Counter()
        self.in_flight = 0
        self.stale_claims = 0
        self._open: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Requests that wait to be found."""
        return len(self._open)

    def ask(self, position: int, nid: int, *, keeps_nid: bool = True) -> None:
        """Begin a request; one that the page had already ends.

        Args:
            position, nid: page and node.
            keeps_nid: the design has a place for the node; otherwise there is nothing to overwrite.
        """
        self.requested += 1
        before = self._open.get(position)
        if before == nid or (before is not None and not keeps_nid):
            self.superseded += 1
        elif before is not None:
            self.lost[OVERWRITTEN_NID] += 1
        self._open[position] = nid

    def ask_many(
        self, positions: NDArray[np.int64], nids: NDArray[np.int32], *, keeps_nid: bool = True
    ) -> None:
        """Begin requests, one after the other: see :meth:`ask`."""
        asked, n_same, n_other = self._open, 0, 0
        for position, nid in zip(positions.tolist(), nids.tolist(), strict=True):
            before = asked.get(position)
            if before is not None:
                if before == nid or not keeps_nid:
                    n_same += 1
                else:
                    n_other += 1
            asked[position] = nid
        self.requested += len(positions)
        self.superseded += n_same
        if n_other:
            self.lost[OVERWRITTEN_NID] += n_other

    def refuse(self, reason: str) -> None:
        """Book a request that found no room; an older one of the page stands."""
        self.requested += 1
        self.lost[reason] += 1

    def claim(self, position: int) -> int | None:
        """Take the request of a page whose mark was cleared; None where the mark had outlived its folio."""
        nid = self._open.pop(position, None)
        if nid is None:
            self.stale_claims += 1
        else:
            self.in_flight += 1
        return nid

    def wanted(self, position: int) -> int | None:
        """Return the node that a pending request of a page asks for."""
        return self._open.get(position)

    def moved(self, asked: int | None, nid: int) -> None:
        """End a claimed request whose folio went to ``nid``."""
        if asked is None:
            return
        self.in_flight -= 1
        self.migrated += 1
        self.elsewhere += asked != nid

    def lose(self, asked: int | None, reason: str) -> None:
        """End a claimed request without a move."""
        if asked is None:
            return
        self.in_flight -= 1
        self.lost[reason] += 1

    def end_pending(self, position: int, reason: str) -> bool:
        """End the pending request of a page, if there is one; return whether there was."""
        if self._open.pop(position, None) is None:
            return False
        self.lost[reason] += 1
        return True

    def pending_positions(self) -> NDArray[np.int64]:
        """Return int64[n], the pages with a pending request, ascending."""
        return np.sort(np.fromiter(self._open, dtype=np.int64, count=len(self._open)))

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
