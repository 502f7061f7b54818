"""How marks ended that moved nothing: without need, overtaken, or lost. What a reason means is said here.

*Lost* is what should have moved and did not. A page that is where it was asked to go, or that is gone, has
nothing to do: its mark was *without need*. A page whose newer mark names another node is *overtaken*: it goes
where the newer one says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuscan.designs.requests import ALREADY_THERE, OVERWRITTEN_NID, STALE

OWN_NODE = "on its node when it was marked"
"""What a store refuses at once, where models take the mark and find out later."""
FREED = "freed"
"""Of a page that is gone, see :class:`gpuscan.engine.stages.FolioEvents`."""
NEVER_FOUND = "nobody looks for it any more"
"""Pending when a list was over and the threads had gone on for a while."""
_WITHOUT_NEED = frozenset(
    {ALREADY_THERE, OWN_NODE, STALE, FREED, f"{FREED} while it waited", "refused: ENOENT"}
)
_OVERTAKEN = frozenset({OVERWRITTEN_NID})


@dataclass(frozen=True, slots=True)
class Endings:
    """Marks that moved nothing, by reason, most frequent first.

    Attributes:
        without_need: nothing had to be done, or has not any more.
        overtaken: by a newer one of the same page for another node.
        lost: all others; a reason that is not known here is among them.
    """

    without_need: dict[str, int]
    overtaken: dict[str, int]
    lost: dict[str, int]

    @classmethod
    def of(cls, by_reason: Mapping[str, int]) -> Endings:
        """Tell them apart."""
        parts: tuple[dict[str, int], ...] = ({}, {}, {})
        for reason, count in sorted(by_reason.items(), key=lambda item: (-item[1], item[0])):
            if count:
                which = 0 if reason in _WITHOUT_NEED else 1 if reason in _OVERTAKEN else 2
                parts[which][reason] = count
        return cls(*parts)
