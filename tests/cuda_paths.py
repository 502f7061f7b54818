"""How many machine instructions a warp issues on its way round a loop, read from a kernel's SASS.

``python tests/cuda_paths.py`` prints the table of docs/notes/cuda-machine-code.md.

The control flow is that of one listing: branches by address, with lanes together (``BRA.DIV`` is not taken,
``BRA.CONV`` always; some branches are called ``CALL.REL.NOINC``). A loop's shortest way round is what it
issues where nothing more happens.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cuda_compiler import ARCHITECTURES, compiled, listing
from gpuscan.bench.gpu.scans import PAGES_OF_ROWS, are_in_rows

_LINE = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(.*?)\s*;")
_BRANCH = re.compile(
    r"^(?:@!?U?P\d+ )?(?:BRA(?:\.CONV|\.U)?|CALL\.REL\.NOINC) (?:~?U\w+, |!?U?P\d+, )?0x([0-9a-f]+)"
)
_BRANCHES = re.compile(r"^(?:@!?U?P\d+ )?(?:BRA(?!\.DIV)|BRX|JMP|CALL)")


@dataclass(frozen=True)
class Paths:
    """The control flow of a kernel: instructions, and which of them follow each."""

    instructions: tuple[str, ...]
    following: tuple[tuple[int, ...], ...]

    def places(self, pattern: str) -> list[int]:
        """Return where a pattern is."""
        return [place for place, text in enumerate(self.instructions) if re.search(pattern, text)]

    def n_between(self, start: int, end: int) -> float:
        """Return how many instructions the shortest way issues, the last included; inf without a way."""
        distance = {start: 0}
        waiting = deque([start])
        while waiting:
            place = waiting.popleft()
            for after in self.following[place]:
                if after == end:
                    return distance[place] + 1
                if after not in distance:
                    distance[after] = distance[place] + 1
                    waiting.append(after)
        return math.inf

    def n_round(self, *places: int) -> float:
        """Return how many instructions the shortest way round a loop by these places issues."""
        ways = zip(places, (*places[1:], places[0]), strict=True)
        return sum(self.n_between(start, end) for start, end in ways)


@cache
def paths(cubin: Path, kernel: str) -> Paths:
    """Return the control flow of a kernel."""
    found = _LINE.findall(listing(cubin, kernel))
    number = {int(address, 16): place for place, (address, _) in enumerate(found)}
    following = []
    for place, (_, text) in enumerate(found):
        branch = _BRANCH.match(text)
        if branch is None and _BRANCHES.match(text):
            raise ValueError(f"{kernel}: where does {text} go?")
        after = [] if text.startswith(("EXIT", "BRA 0x", "BRA.CONV")) else [place + 1]
        if branch is not None:
            after.append(number[int(branch[1], 16)])
        following.append(tuple(each for each in after if each < len(found)))
    return Paths(tuple(text for _, text in found), tuple(following))


@dataclass(frozen=True)
class TileCounts:
    """Instructions of a warp in the dense scan.

    Attributes:
        plain: a tile with nothing READY in it.
        queued: what one with candidates takes besides, at least.
        claim: 32 claims, or fewer at the end.
        rows: four rows of words, whose records are claimed where they lie.
    """

    plain: int
    queued: int
    claim: int
    rows: int

    def of_tile(self, density: float, tile_pages: int) -> float:
        """Return what a tile takes on average where candidates lie independently."""
        if are_in_rows(density, tile_pages):
            return self.plain + tile_pages // PAGES_OF_ROWS[tile_pages] * self.rows
        has_candidates = 1 - (1 - density) ** tile_pages
        return self.plain + has_candidates * self.queued + density * tile_pages / 32 * self.claim


def tile_counts(cubin: Path) -> TileCounts:
    """Return the instructions of the dense scan's ways; claims are atomic."""
    found = paths(cubin, "scan_dense")
    first, *_, last = found.places(r"LDG\.E\.128")
    (exchange, *_) = (place for place in found.places(r"ATOMG\.E\.CAS") if place > last)
    plain = found.n_round(first)
    queued = min(found.n_round(first, place) for place in found.places(r"\bSTS ") if place > last)
    looks = (place for place in found.places(r"\bLDG\.E\.STRONG") if last < place < exchange)
    stages = (place for place in found.places(r"\bSTG") if place > exchange)
    claim = min(found.n_round(*each) for each in itertools.product(looks, [exchange], stages))
    rows = rows_of(found)
    assert rows is not None
    return TileCounts(int(plain), int(queued - plain), int(claim), rows)


def rows_of(found: Paths) -> int | None:
    """Return what four rows of claims take, whose exchanges follow each other; None where there are none."""
    exchanges = found.places(r"ATOMG\.E\.CAS")
    for first, *others in zip(*(exchanges[n:] for n in range(_ROWS)), strict=False):
        if others[-1] - first < _NEAR:
            stores = [place for place in found.places(r"\bSTG") if place > others[-1]]
            # An offset and a word of each record, of four in a word or of one.
            found_ways = (found.n_round(first, *others, *stores[: 2 * _ROWS * n]) for n in (4, 1))
            return int(next(each for each in found_ways if each < math.inf))
    return None


_ROWS, _NEAR = 4, 40
"""Rows that are claimed at once, GS_ROWS; instructions within which all their exchanges are."""
_DENSITIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_TILE_PAGES = {"rfc": 512, "pghot-compact": 2048}


def table() -> str:
    """Return what a tile of the dense scan takes, by format and architecture, in Markdown."""
    lines = [
        "| format, pages a tile | sm | none READY | queue | 32 claims | 4 rows | "
        + " | ".join(f"{density:g}" for density in _DENSITIES)
        + " |",
        "|---|---:|" + "---:|" * (4 + len(_DENSITIES)),
    ]
    for name, n_pages in _TILE_PAGES.items():
        for architecture in ARCHITECTURES[1:]:
            counts = tile_counts(compiled(name, False, architecture))
            tiles = " | ".join(f"{counts.of_tile(density, n_pages):,.0f}" for density in _DENSITIES)
            lines.append(
                f"| `{name}`, {n_pages:,} | {architecture} | {counts.plain} | {counts.queued} "
                f"| {counts.claim} | {counts.rows} | {tiles} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - what the script is for
