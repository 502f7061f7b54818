"""What may become of an item of a call, as every backend counts it."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """What became of one element of a ``request`` or ``record`` call. Tested in this order, drops first."""

    ACCEPTED = 0
    """READY went 0 -> 1: a request begins."""
    REFRESHED = 1
    """The page was READY already; its target (and for ``record`` FREQ and TIME) was renewed."""
    COUNTED = 2
    """``record`` only: the access was counted, the page is not hot enough yet."""
    UNKNOWN_TARGET = 3
    """Dropped: the target is not a node with memory."""
    UNKNOWN_PFN = 4
    """Dropped: the PFN is in a hole or outside the machine."""
    TOP_TIER = 5
    """``record`` only, dropped: the page is on a top-tier node already."""
    INELIGIBLE = 6
    """Dropped: the folio is not on an LRU list, not online, or ZONE_DEVICE."""
    OWN_NODE = 7
    """Dropped: the page is on its target node already."""


N_OUTCOMES = len(Outcome)


class ReleaseOutcome(IntEnum):
    """What became of one element of a ``release`` call."""

    RESTORED = 0
    """The old word came back: the page is READY again."""
    SUPERSEDED = 1
    """The page was READY again already: the newer request stands, the released one ends."""
    INELIGIBLE = 2
    """The page was freed meanwhile: the released request ends."""


N_RELEASE_OUTCOMES = len(ReleaseOutcome)
