"""Orders as they are heard and carried out: what asks is answered at once, what changes between two looks."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from gpuscan.base.errors import GpuscanError, RunFailedError
from gpuscan.service.waiting import AT_ONCE, Inbox, Order, unheard

_MOST_WAITING = 64


class Served(Protocol):
    """What can be ordered of a service."""

    def pause(self) -> None:
        """Look at nothing."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def reload(self) -> None:
        """Go by the configuration as it is now."""
        ...

    def drain(self, nid: int | None) -> None:
        """Empty a node."""
        ...

    def is_over(self) -> bool:
        """Whether it ends."""
        ...

    def alive(self) -> None:
        """Say to whom it may concern that it is alive."""
        ...

    def now_ns(self) -> int:
        """Return the time."""
        ...

    def told(self, order: str, nid: int | None, refused: str) -> None:
        """Note an order that was carried out, or why it was not."""
        ...

    def document(self, *, whole: bool) -> dict[str, Any]:
        """Return how things stand."""
        ...


class Orders:
    """Orders on their way.

    Args:
        inbox: where they come from.
        served: who carries them out.
        slice_s: how often it is said, while nothing comes, that the service is alive.
    """

    def __init__(self, inbox: Inbox, served: Served, slice_s: float = 5.0) -> None:
        self._inbox = inbox
        self._slice_s = slice_s
        self._served = served
        self._waiting: deque[Order] = deque()
        self.hung_up = False
        """A signal asked for a reload."""

    def hear(self, limit_s: float) -> None:
        """Wait up to so many seconds: until it ends, or there is something to carry out."""
        until_ns = self._served.now_ns() + int(limit_s * 1e9)
        while not self._served.is_over() and not self.hung_up:
            left_s = (until_ns - self._served.now_ns()) / 1e9
            for order in self._inbox.wait(max(0.0, min(left_s, self._slice_s))):
                self._take(order)
            self._served.alive()
            if self._waiting or left_s <= 0:
                return

    def _take(self, order: Order) -> None:
        if order.name in AT_ONCE:
            order.answer(self._served.document(whole=order.name == "dump"))
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting.append(order)
        else:
            order.answer({"error": f"{_MOST_WAITING} orders wait already; ask again"})

    @property
    def is_any(self) -> bool:
        """Whether something waits to be carried out."""
        return self.hung_up or bool(self._waiting)

    def carry_out(self) -> None:
        """Carry out what waits; a look is over, and the next one has not begun."""
        if self.hung_up:
            self.hung_up = False
            self._waiting.append(Order("reload", unheard))
        while self._waiting:
            order = self._waiting.popleft()
            refused = ""
            try:
                self._carry_out(order)
            except RunFailedError as error:  # and so the service ends
                order.answer({"error": str(error)})
                raise
            except GpuscanError as error:
                refused = str(error)
            self._served.told(order.name, order.nid, refused)
            order.answer({"error": refused} if refused else self._served.document(whole=False))

    def _carry_out(self, order: Order) -> None:
        if order.name == "drain":
            self._served.drain(order.nid)
        else:
            {"pause": self._served.pause, "resume": self._served.resume, "reload": self._served.reload}[
                order.name
            ]()
