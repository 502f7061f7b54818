"""What the service waits for beside the next look: orders from outside, signals, and its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

Name = Literal["status", "pause", "resume", "reload", "drain", "dump"]
NAMES: tuple[str, ...] = get_args(Name)
AT_ONCE = ("status", "dump")
"""What only asks, and is answered while a look is waited for; all else comes between two looks."""

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants.

    Attributes:
        name: of it.
        answer: takes what to answer; called once.
        nid: the node of ``drain``; None: no node any more.
    """

    name: Name
    answer: Callable[[Answer], None]
    nid: int | None = None


def unheard(answer: Answer) -> None:
    """Take an answer that nobody waits for: the order was a signal."""


class Inbox(Protocol):
    """Where orders come from."""

    def wait(self, limit_s: float) -> list[Order]:
        """Return orders once there are some, or none after so many seconds."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...
