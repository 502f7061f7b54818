"""What the live tests measured besides passing: the table of "What the guest shows" in docs/notes/live.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.live.session import LiveTotals

from .session import Ran

ENOUGH = 0.95
HEAD = ("what", "source", "moved", "cold near", "not moved, by reason", "hot near", "after", "one CPU")


@dataclass(frozen=True)
class Share:
    """How much of a workload's hot memory is on a node, and how many of its other pages are."""

    hot: float
    n_cold: int


class Placed(Protocol):
    """A process whose memory is in place, part of it hot: see :class:`live.processes.Workload`."""

    def hot(self) -> tuple[int, int]:
        """Return the hot stretch, in bytes from the start of its memory."""
        ...

    def nodes(self) -> NDArray[np.int64]:
        """Return the node of every page of its memory."""
        ...


def on_node(workload: Placed, nid: int) -> Share:
    """Look where the pages of a workload are."""
    lo, hi = (offset // PAGE_BYTES for offset in workload.hot())
    there = workload.nodes() == nid
    return Share(float(there[lo:hi].mean()), int(there.sum() - there[lo:hi].sum()))


class Near:
    """Asked after each tick of a run: whether enough of the hot memory is near; remembers when it was."""

    def __init__(self, workload: Placed, nid: int, share: float = ENOUGH) -> None:
        self._look: Callable[[], Share] = lambda: on_node(workload, nid)
        self._share = share
        self.after_s: float | None = None

    def __call__(self, totals: LiveTotals, refused: Counter[str]) -> bool:
        """Return whether it is so now."""
        if self._look().hot < self._share:
            return False
        self.after_s = totals.elapsed_ns / 1e9
        return True


_rows: list[tuple[str, ...]] = []
_notes: list[str] = []


def show(
    what: str,
    ran: Ran,
    *,
    source: str = "damon",
    share: Share | None = None,
    after_s: float | None = None,
) -> None:
    """Add a row."""
    refusals = [f"{count:,} {reason}" for reason, count in ran.report.refusals.most_common(3)]
    cells = (
        what,
        source,
        f"{ran.totals.moved_pages:,} pages",
        "-" if share is None else f"{share.n_cold:,}",
        "; ".join(refusals) or "-",
        "-" if share is None else f"{share.hot:.1%}",
        "-" if after_s is None else f"{after_s:.1f} s",
        f"{ran.totals.overhead:.0%}",
    )
    _rows.append(cells)


def note(text: str) -> None:
    """Add a line below the table."""
    _notes.append(text)


def table() -> list[str]:
    """Return the lines of a Markdown table with all rows, and the notes."""
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, *_rows)]
    return [*([lines[0], "|" + "---|" * len(HEAD), *lines[1:]] if _rows else []), *_notes]
