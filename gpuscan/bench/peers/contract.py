"""What a peer is, and what one declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuscan.bench.peers.answer import Answer, Question


class Peer(ABC):
    """One way to the answer.

    Args:
        question: on which records.

    Attributes:
        n_pages: how many of the question's pages it works on, from the first on.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.n_pages = question.n_pages

    @abstractmethod
    def run(self) -> object:
        """Do it once: the part that is timed."""

    @abstractmethod
    def answer(self) -> Answer:
        """Do it once and return what came out in the common form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind:
    """What a peer declares; all of it.

    Attributes:
        about: how it does it, in a few words.
        make: of a question, what is timed; only called where all of ``imports`` is there.
        imports: packages that it takes beside gpuscan's own; not imported by its module.
        extra: of gpuscan, that brings them; empty where there is none.
        label: in plots.
        style: in plots, as matplotlib's ``plot`` takes it.
    """

    about: str
    make: Callable[[Question], Peer]
    imports: tuple[str, ...]
    extra: str
    label: str
    style: Mapping[str, Any]
