"""How long the rest of a comparison takes: parts weighed by what they go through, and by measured speed.

What a part usually takes follows from its accesses, requests and pages. What the first parts of a kind took
beside that says what the others of the kind will take. Of a kind of which none has begun, one that goes
through the same tells, or how all kinds fare.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_TELLS = 0.02
"""Share of a part from which on its time says something of the whole."""
_BELIEVED = 0.25
"""Of parts of a kind, by which the others are known as well as they can be."""


@dataclass(slots=True)
class Part:
    """A part of the work.

    Attributes:
        name: what is told of it as it goes on.
        kind: parts of one are as much slower, or faster, than usual.
        usual_s: what it usually takes; but for the first seconds only the ratio of one to another matters.
        beside: it runs beside others, in a process of its own.
        like: a kind that goes through the same: as much slower as that one is it, too, until one of its own
            kind tells.
        share: that is done, 0 to 1.
        began_s, ended_s: when, by the clock.
    """

    name: str
    kind: str
    usual_s: float
    beside: bool = False
    like: str = ""
    share: float = 0.0
    began_s: float | None = None
    ended_s: float | None = None

    def took_s(self, now_s: float) -> float:
        """Return how long it has taken so far."""
        if self.began_s is None:
            return 0.0
        return (now_s if self.ended_s is None else self.ended_s) - self.began_s


class Pace:
    """What is done of some parts, and how long the rest takes.

    Args:
        parts: of the work, names all different.
        n_processes: parts with ``beside`` that run at once.
        clock: returns seconds.
    """

    def __init__(
        self, parts: Iterable[Part], n_processes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.parts = {part.name: part for part in parts}
        self._n_processes, self._clock = n_processes, clock
        self._free_s = clock()  # when the last part ended: one that only tells of its end began then

    def advance(self, name: str, share: float) -> None:
        """Count a share of a part as done; 0 says that it begins."""
        part, now_s = self.parts[name], self._clock()
        if part.ended_s is not None:
            return
        if part.began_s is None:
            part.began_s = self._free_s if share else now_s
        part.share = min(1.0, part.share + share)
        if part.share > 1 - 1e-9:
            part.share, part.ended_s = 1.0, now_s
            self._free_s = now_s

    def resize(self, kind: str, usual_s: float) -> None:
        """Say anew what parts of a kind usually take that have not begun."""
        for part in self.parts.values():
            if part.kind == kind and part.began_s is None:
                part.usual_s = usual_s

    @property
    def share(self) -> float:
        """What is done, of all of it, by time."""
        now_s, left_s = self._clock(), self.left_s
        done_s = sum(
            part.took_s(now_s) / (self._n_processes if part.beside else 1) for part in self.parts.values()
        )
        return done_s / (done_s + left_s) if done_s + left_s else 0.0

    @property
    def left_s(self) -> float:
        """Seconds that the rest takes."""
        now_s, slower = self._clock(), self._slower()
        alone, beside, longest = 0.0, 0.0, 0.0
        for part in self.parts.values():
            left_s = self._left_of(part, slower[part.kind], now_s)
            if part.beside:
                beside, longest = beside + left_s, max(longest, left_s)
            else:
                alone += left_s
        return alone + max(longest, beside / self._n_processes)

    def _left_of(self, part: Part, slower: float, now_s: float) -> float:
        by_others = part.usual_s * slower * (1 - part.share)
        if part.share < _TELLS or part.ended_s is not None:
            return by_others
        # The further it is, the more its own time says.
        by_itself = part.took_s(now_s) * (1 - part.share) / part.share
        return part.share * by_itself + (1 - part.share) * by_others

    def _slower(self) -> dict[str, float]:
        """Return by kind how many times as long as usual its parts take."""
        now_s = self._clock()
        took, usual, seen = dict[str, float](), dict[str, float](), dict[str, float]()
        for part in self.parts.values():
            told = part.share >= _TELLS
            took[part.kind] = took.get(part.kind, 0.0) + (part.took_s(now_s) if told else 0.0)
            usual[part.kind] = usual.get(part.kind, 0.0) + (part.share * part.usual_s if told else 0.0)
            seen[part.kind] = seen.get(part.kind, 0.0) + (part.share if told else 0.0)
        known = {kind: took[kind] / usual[kind] for kind in usual if took[kind] and usual[kind]}
        # What is usual counts as one of the kinds: a slow start says little of what comes.
        others = math.exp(sum(map(math.log, known.values())) / (1 + len(known)))
        like = {part.kind: part.like for part in self.parts.values()}
        by_likeness = {kind: known.get(like[kind], others) for kind in usual}
        # The beginning of a part has more to do than its share tells: it is believed by and by.
        believed = {kind: min(1.0, seen[kind] / _BELIEVED) for kind in known}
        return {
            kind: known.get(kind, 1.0) ** believed.get(kind, 0.0) * by ** (1 - believed.get(kind, 0.0))
            for kind, by in by_likeness.items()
        }
