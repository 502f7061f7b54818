"""Where processes had what was accessed, marked, claimed and moved: a map over their addresses.

Memory of a process has no end to count up to, and mappings come and go. So what is counted lies in sections
of 128 MiB of addresses, which get a place in the order in which something is seen in them. Only at the end
they are put in order, by process and address, and what nobody mapped is squeezed out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.heatmap.cells import COLUMN_BITS, sort_cells
from gpuscan.heatmap.counting import Counting
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap
from gpuscan.heatmap.recorder import ACCESSES_ONE_IN
from gpuscan.heatmap.space import ADDRESSES, Space

SECTION_SHIFT = 15
"""Pages of a section; a cell has pages of one section only, so they may be put in another order."""
N_SECTIONS_MAX = 1 << 13
"""1 TiB of addresses in which something was seen; what is seen elsewhere from then on is not counted."""
N_STRETCHES_MAX = 1 << 12
"""Of a process; of more, those with the smallest gaps between them become one."""
_BLOCK_SHIFT, _FEW_SECTIONS, _LARGE_BLOCK_SHIFT = 4, 1 << 9, 9
"""What is not mapped is squeezed out by so many pages, of many sections by larger ones."""
_UNKNOWN = "(mapped for a moment)"
_OFFSET = (1 << SECTION_SHIFT) - 1

LookUp = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""From int64[n] PFNs of folios to the number of the process that has each, -1 for none, and the address."""
Stretch = tuple[int, int, str]
"""First page number, end, name."""


class AddressRecorder:
    """A :class:`gpuscan.engine.stages.Witness` that counts by process and address.

    Args:
        machine: its name.
        step_ns: the finest step of time.
        n_cells_max: cells that each layer keeps.
        pfn_of_flat: of the machine.

    Attributes:
        look_up: says which process has a folio; set before anything is marked, claimed or moved.
        n_left_out: of what was seen, what found no place any more.
    """

    def __init__(
        self,
        machine: str,
        step_ns: int,
        n_cells_max: int,
        pfn_of_flat: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> None:
        self._machine, self._step_ns, self._pfn_of_flat = machine, step_ns, pfn_of_flat
        self.look_up: LookUp = lambda pfns: (np.full(len(pfns), -1), pfns)
        self.n_left_out = 0
        self._names: dict[int, str] = {}
        self._stretches: dict[int, list[Stretch]] = {}
        self._read: dict[int, tuple[Stretch, ...]] = {}
        self._place_of: dict[tuple[int, int], int] = {}
        self._claimed: tuple[NDArray[np.int64], NDArray[np.int64]] = (_NONE, _NONE)
        self._layers = {
            "accesses": Counting(1, n_cells_max, ACCESSES_ONE_IN, row_shift_max=SECTION_SHIFT),
            **{
                name: Counting(1, n_cells_max, row_shift_max=SECTION_SHIFT)
                for name in ("marks", "claims", "moves")
            },
        }

    def mapped(self, number: int, name: str, mappings: Iterable[tuple[int, int, str]]) -> None:
        """See what a process has mapped now; what it had before stays known where nothing else is.

        Args:
            number: its own, for good.
            name: what to call it.
            mappings: addresses ``[start, end)`` and what is there, ascending.
        """
        self._names[number] = name
        now = tuple((start >> PAGE_SHIFT, end >> PAGE_SHIFT, what) for start, end, what in mappings)
        if now and now != self._read.get(number):
            self._read[number] = now
            self._stretches[number] = _joined(_over(now, self._stretches.get(number, [])))

    def gone(self, number: int) -> None:
        """See that a process is watched no more: of it stays what is needed for what was counted in it."""
        self._read.pop(number, None)
        before = self._stretches.pop(number, [])
        sections = sorted(section for of, section in self._place_of if of == number)
        if sections:
            inside = (_inside(before, section << SECTION_SHIFT) for section in sections)
            self._stretches[number] = [stretch for stretches in inside for stretch in stretches]
        else:
            self._names.pop(number, None)

    def accessed(self, now_ns: int, number: int, addresses: NDArray[np.int64]) -> None:
        """See addresses of a process that were accessed, those of the sample."""
        self._layers["accesses"].add(now_ns // self._step_ns, self._flats(number, addresses >> PAGE_SHIFT))

    def marked(self, now_ns: int, pfns: NDArray[np.int64]) -> None:
        """See pages that a source wants marked."""
        self._layers["marks"].add(now_ns // self._step_ns, self._found(pfns))

    def claimed(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that a scan claimed; those that move later are among them."""
        places = self._found(self._pfn_of_flat(flats), n_pages)
        self._layers["claims"].add(now_ns // self._step_ns, places, n_pages)
        order = np.argsort(flats)
        self._claimed = flats[order], places[order]

    def moved(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that were moved: their addresses stay."""
        claimed, places = self._claimed
        if not len(claimed):
            return
        at = np.minimum(np.searchsorted(claimed, flats), len(claimed) - 1)
        found = np.where(claimed[at] == flats, places[at], -1)
        self._layers["moves"].add(now_ns // self._step_ns, found, n_pages)

    def _found(self, pfns: NDArray[np.int64], n_pages: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return where folios lie, -1 for what no process has; large ones from their first address on."""
        numbers, addresses = self.look_up(pfns)
        pages = addresses >> PAGE_SHIFT
        if n_pages is not None:
            pages = pages & -n_pages
        found = np.full(len(pfns), -1, dtype=np.int64)
        for number in np.unique(numbers[numbers >= 0]).tolist():
            mine = numbers == number
            found[mine] = self._flats(number, pages[mine])
        return found

    def _flats(self, number: int, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where page numbers of a process are counted; -1 where there is no room for more sections."""
        sections, which = np.unique(pages >> SECTION_SHIFT, return_inverse=True)
        places = np.array([self._place(number, section) for section in sections.tolist()], dtype=np.int64)
        found = places[which] if len(places) else _NONE
        self.n_left_out += int((found < 0).sum())
        return np.where(found < 0, -1, found << SECTION_SHIFT | (pages & _OFFSET))

    def _place(self, number: int, section: int) -> int:
        found = self._place_of.get((number, section), -1)
        if found < 0 and len(self._place_of) < N_SECTIONS_MAX:
            found = self._place_of[number, section] = len(self._place_of)
            for counting in self._layers.values():
                counting.n_pages = (found + 1) << SECTION_SHIFT
        return found

    def map(self, end_ns: int) -> HeatMap | None:
        """Return the map of what was seen until ``end_ns``, by process and address; None of nothing."""
        layers = {name: counting.layer() for name, counting in self._layers.items()}
        layers = {name: layer for name, layer in layers.items() if layer.n_cells}
        if not layers:
            return None
        shift = _BLOCK_SHIFT if len(self._place_of) <= _FEW_SECTIONS else _LARGE_BLOCK_SHIFT
        shift = max(shift, *(layer.row_shift for layer in layers.values()))
        per_section = 1 << (SECTION_SHIFT - shift)
        used = np.zeros((len(self._place_of), per_section), dtype=np.bool_)
        for layer in layers.values():
            first = layer.rows << layer.row_shift
            used[first >> SECTION_SHIFT, (first & _OFFSET) >> shift] = True
        ordered = sorted(self._place_of)
        extents: list[tuple[int, int, int, int, str]] = []
        base_of = np.full(used.shape, -1, dtype=np.int64)
        flat = 0
        for number, section in ordered:
            place = self._place_of[number, section]
            inside = _inside(self._stretches.get(number, []), section << SECTION_SHIFT)
            for start, end, _ in inside:
                used[place, (start & _OFFSET) >> shift : ((end - 1 & _OFFSET) >> shift) + 1] = True
            for block in np.flatnonzero(used[place]).tolist():
                base_of[place, block] = flat
                page = (section << SECTION_SHIFT) + (block << shift)
                for start, end, name in _cut_out(inside, page, page + (1 << shift)):
                    _append(extents, (flat + start - page, start, end - start, number, name))
                flat += 1 << shift
        space = Space(
            self._machine,
            flat,
            self._step_ns,
            max(1, -(-end_ns // self._step_ns)),
            tuple(extents),
            {number: self._names.get(number, f"process {number}") for number, _ in ordered},
            ADDRESSES,
        )
        return HeatMap(space, {name: _moved(layer, base_of, shift) for name, layer in layers.items()})


_NONE = np.empty(0, dtype=np.int64)


def _over(now: Sequence[Stretch], before: Sequence[Stretch]) -> list[Stretch]:
    """Return stretches of now, and of those before what lies between them; all ascending."""
    found = list(now)
    gaps = zip([0, *(end for _, end, _ in now)], [*(start for start, _, _ in now), 1 << 52], strict=True)
    at = 0
    for low, high in gaps:
        while at < len(before) and before[at][0] < high:
            start, end, name = before[at]
            if max(start, low) < min(end, high):
                found.append((max(start, low), min(end, high), name))
            if end > high:  # the next gap may have more of it
                break
            at += 1
    return sorted(found)


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return ascending stretches without seams between those of one name, and not too many.

    What is joined across gaps has the name of the longest, and the gaps are as if they were mapped.
    """
    found: list[Stretch] = []
    for start, end, name in stretches:
        if found and found[-1][1:] == (start, name):
            found[-1] = (found[-1][0], end, name)
        else:
            found.append((start, end, name))
    if len(found) <= N_STRETCHES_MAX:
        return found
    gaps = np.array([after[0] - before[1] for before, after in pairwise(found)])
    n_kept = N_STRETCHES_MAX * 3 // 4  # so that it is not to be done at every reading
    begins = np.sort(np.argsort(-gaps, kind="stable")[: n_kept - 1]) + 1
    parts = [found[first:end] for first, end in pairwise([0, *begins.tolist(), len(found)])]
    return [(part[0][0], part[-1][1], max(part, key=lambda one: one[1] - one[0])[2]) for part in parts]


def _inside(stretches: Sequence[Stretch], first: int) -> list[Stretch]:
    """Return what lies in a section that begins at a page number."""
    return _cut(stretches, first, first + (1 << SECTION_SHIFT))


def _cut(stretches: Sequence[Stretch], low: int, high: int) -> list[Stretch]:
    found: list[Stretch] = []
    for at in range(bisect_right(stretches, low, key=lambda one: one[1]), len(stretches)):
        start, end, name = stretches[at]
        if start >= high:
            break
        found.append((max(start, low), min(end, high), name))
    return found


def _cut_out(stretches: Sequence[Stretch], low: int, high: int) -> list[Stretch]:
    """Return what lies in a block; all of it is of a name of its own where nothing that is known does."""
    return _cut(stretches, low, high) or [(low, high, _UNKNOWN)]


def _append(extents: list[tuple[int, int, int, int, str]], one: tuple[int, int, int, int, str]) -> None:
    """Add an extent, to the one before it where it goes on."""
    if extents:
        flat, page, n_pages, number, name = extents[-1]
        if (flat + n_pages, page + n_pages, number, name) == (one[0], one[1], one[3], one[4]):
            extents[-1] = (flat, page, n_pages + one[2], number, name)
            return
    extents.append(one)


def _moved(layer: Layer, base_of: NDArray[np.int64], shift: int) -> Layer:
    """Return a layer whose blocks lie elsewhere."""
    first = layer.rows << layer.row_shift
    bases = base_of[first >> SECTION_SHIFT, (first & _OFFSET) >> shift]
    rows = (bases + (first & ((1 << shift) - 1))) >> layer.row_shift
    keys, counts = sort_cells(rows << COLUMN_BITS | layer.columns, layer.counts.copy())
    return replace(layer, keys=keys, counts=counts)
