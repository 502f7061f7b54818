"""What may be done with the pages of each process, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Shared = Literal["watched", "never", "always"]
"""Whether pages that several processes map move: where all of those are watched, never, or always."""
SHARED = get_args(Shared)
Way = Literal["up", "down", "out"]
"""Why a page is to move: it is hot and far, it is cold, or its node is to be emptied."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What may be done with the pages of one process in one look.

    Attributes:
        promotes, demotes: whether hot pages go up, and cold ones down.
        threshold: looks that must find a page accessed; None for the engine's policy.
        nids: nodes that pages may go to, of those that the process allows; None for all.
        cold_wait_ns: how much longer than the monitor's word for cold a page must have stayed so.
        shared: whether its pages that others map, too, move.
        room_pages, room_down_pages: base pages that may become candidates to go up (or out), and down; None
            without limit.
    """

    promotes: bool = True
    demotes: bool = False
    threshold: int | None = None
    nids: frozenset[int] | None = None
    cold_wait_ns: int = 0
    shared: Shared = "watched"
    room_pages: int | None = None
    room_down_pages: int | None = None


class Keeper(Protocol):
    """Says what is to be done with whose pages."""

    def treatment(self, number: int) -> Treatment:
        """Return what may be done now with the pages of a process, by its number."""
        ...

    def entered(self, number: int, n_pages: int, way: Way) -> None:
        """Hear that so many base pages of a process became candidates."""
        ...


class Same:
    """A :class:`Keeper` that treats all processes alike.

    Args:
        treatment: how.
    """

    def __init__(self, treatment: Treatment) -> None:
        self._treatment = treatment

    def treatment(self, number: int) -> Treatment:
        """See :class:`Keeper`."""
        return self._treatment

    def entered(self, number: int, n_pages: int, way: Way) -> None:
        """See :class:`Keeper`."""
