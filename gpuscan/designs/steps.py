"""Steps that are measured: what a scan does per page, what a mark does, what a neighbour is beside.

The ones that several designs are made of are named in ``gpuscan/compare/steps/``; a design may bring its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import one_of, text
from gpuscan.base.errors import ArgumentError
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES


@dataclass(frozen=True, slots=True)
class ScanSize:
    """What one scan is of: its pages, and what there is to be found in them.

    Attributes:
        n_pages: of the machine, or of the part that is gone through.
        n_candidates: READY pages.
        n_marked_blocks: blocks (2 MiB) with at least one of them.
        n_marked_sections: sections (128 MiB) with at least one of them.
    """

    n_pages: float
    n_candidates: float
    n_marked_blocks: float
    n_marked_sections: float

    @classmethod
    def spread(cls, n_pages: float, density: float) -> Self:
        """Return the size of ``n_pages`` of which a share is READY, each page as likely as any other."""
        blocks = n_pages / BLOCK_PAGES * -np.expm1(BLOCK_PAGES * np.log1p(-density))
        sections = n_pages / SECTION_PAGES * -np.expm1(SECTION_PAGES * np.log1p(-density))
        return cls(n_pages, n_pages * density, float(blocks), float(sections))

    @classmethod
    def of(cls, n_pages: int, ready: NDArray[np.int64]) -> Self:
        """Return the size of ``n_pages`` with these READY, int64[n], flat, each once."""
        blocks, sections = (len(np.unique(ready // pages)) for pages in (BLOCK_PAGES, SECTION_PAGES))
        return cls(n_pages, len(ready), blocks, sections)

    @property
    def n_sections(self) -> float:
        """Sections of 128 MiB."""
        return self.n_pages / SECTION_PAGES

    @property
    def n_blocks(self) -> float:
        """Blocks of 2 MiB."""
        return self.n_pages / BLOCK_PAGES

    @property
    def marked_sections(self) -> ScanSize:
        """Its marked sections alone."""
        n_pages = self.n_marked_sections * SECTION_PAGES
        return ScanSize(n_pages, self.n_candidates, self.n_marked_blocks, self.n_marked_sections)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a measured scan goes through.

    Attributes:
        n_pages: in whole sections.
        ready: int64[n], flat, ascending, each once.
    """

    n_pages: int
    ready: NDArray[np.int64]

    @property
    def size(self) -> ScanSize:
        """How much that is."""
        return ScanSize.of(self.n_pages, self.ready)


TERMS = {
    "page": "n_pages",
    "section": "n_sections",
    "block": "n_blocks",
    "marked section": "n_marked_sections",
    "marked block": "n_marked_blocks",
    "candidate": "n_candidates",
}
"""What the time of a step may grow with, and which attribute of :class:`ScanSize` counts it."""


@dataclass(frozen=True, slots=True)
class ScanStep:
    """A way to go through the pages of a machine: its time is a fixed part and so much for each of its terms.

    Attributes:
        name: what it is called in a comparison's document.
        terms: of :data:`TERMS`, what its time grows with; the first is what a look of the open loop is.
        points: returns what is to be measured, given the bytes of memory that may be taken: three or more
            numbers of pages, so different in their terms that each term shows. Nothing where too little
            memory is there.
        open: makes the memory of all points, and lets it go; what it yields measures a point once (given
            its place in ``points``): the CPU time in ns, caches cold.
    """

    name: str
    terms: tuple[str, ...]
    points: Callable[[int], tuple[Layout, ...]]
    open: Callable[[Sequence[Layout]], AbstractContextManager[Callable[[int], float]]]

    def __post_init__(self) -> None:
        text("the name of a step", self.name)
        if not self.terms:
            raise ArgumentError(f"the step {self.name!r} has no terms; give some of {', '.join(TERMS)}")
        for term in self.terms:
            one_of(f"the step {self.name!r}: a term", term, tuple(TERMS))


class Marking(NamedTuple):
    """Producers that mark pages.

    Attributes:
        mark: makes all marks of a producer, by its number.
        clear: makes all pages what they were before any mark.
    """

    mark: Callable[[int], object]
    clear: Callable[[], object]


OpenMarking = Callable[[int, Sequence[NDArray[Any]]], AbstractContextManager[Marking]]


@dataclass(frozen=True, slots=True)
class MarkStep:
    """What a producer does for each page.

    Attributes:
        name: what it is called.
        open: makes the memory that marks need, given how many pages there are and int64[n], the pages of each
            producer, and lets it go.
        batched: what the table says of marks that come many at a time; "" where each is made by itself.
        open_single: the same, each mark made by itself; None where ``open`` makes them so.
    """

    name: str
    open: OpenMarking
    batched: str = ""
    open_single: OpenMarking | None = None


@dataclass(frozen=True, slots=True)
class CoRunner:
    """A scan beside which a neighbour is measured.

    Attributes:
        name: what it is called in a comparison's document.
        open: makes the memory that it needs, given how many pages there are, and lets it go; what it
            yields scans once.
    """

    name: str
    open: Callable[[int], AbstractContextManager[Callable[[], object]]]
