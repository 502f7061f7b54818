"""The simulator's hot loops, compiled by Numba: drawing accesses, touching pages, the scanner, the clock.

All of them live in this one file on purpose: Numba's cache is keyed by the file
of the outermost function, so a caller of a helper elsewhere would go stale when
the helper changes (``prefetch`` changes no result). Everything is serial and releases the GIL.

Random numbers are a function of (key, access index) rather than a stream
(SplitMix64, Steele, Lea and Flood, OOPSLA 2014), so a run is the same whatever
the length of its ticks or the order in which processes are simulated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled as _compiled
from gpuscan.kernels.cpu.atomics import prefetch
from gpuscan.sim.interleave import Regions

REFERENCED = 1
"""Frame flag: accessed since the clock hand last came by (the PTE's accessed bit)."""
FILE = 2
"""Frame flag: file-backed and not SWAPBACKED, so on the file LRU (folio_is_file_lru)."""
DIRTY = 4
"""Frame flag: PG_dirty; looked at for ``FILE`` frames only."""
EXEC_SHARED = 8
"""Frame flag: mapped executable by several processes."""
PROT_NONE = 16
"""Frame flag: unmapped by the NUMA balancing scanner, the next access faults."""

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_SECTION_SHIFT = 15
_SECTION_MASK = (1 << _SECTION_SHIFT) - 1
_PAGE_SHIFT = 12
_FRAMES_AHEAD, _FLAGS_AHEAD = 32, 16
"""How many accesses before its own a line of the page table, and of the flags, is asked for."""


@_compiled
def mix(word: Any) -> Any:
    """Return SplitMix64's output function of a uint64."""
    word = np.uint64(word)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return word ^ (word >> np.uint64(31))


@_compiled
def _unit(key: Any, counter: Any) -> float:
    """Return draw ``counter`` of stream ``key``, a float in [0, 1) with 53 bits."""
    return np.float64(mix(key + _GOLDEN * np.uint64(counter)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@_compiled
def _power_law_span(n: int, skew: float) -> float:
    """Return the part of :func:`_power_law_rank` that is the same for all draws."""
    return math.log(n + 1.0) if skew == 1.0 else (n + 1.0) ** (1.0 - skew) - 1.0


@_compiled
def _power_law_rank(unit: float, n: int, skew: float, span: float) -> int:
    """Return a rank in [0, n) of density (rank + 1) ** -skew: the inverse of a power law on [1, n + 1)."""
    if skew == 0.0:
        rank = int(unit * n)
    elif skew == 1.0:
        rank = int(math.exp(unit * span)) - 1
    else:
        rank = int(math.exp(math.log1p(unit * span) / (1.0 - skew))) - 1
    return min(rank, n - 1)


@_compiled
def draw_zipf(
    out: NDArray[np.int64],
    first: int,
    key: Any,
    n_folios: int,
    n_hot: int,
    hot_access_share: float,
    skew: float,
    multiplier: int,
    offset: int,
) -> None:
    """Fill ``out`` with folios; hot rank r is folio ``(r * multiplier + offset) % n_folios``."""
    span = _power_law_span(n_hot, skew)
    for i in range(len(out)):
        unit = _unit(key, 2 * (first + i) + 1)
        if _unit(key, 2 * (first + i)) < hot_access_share:
            rank = _power_law_rank(unit, n_hot, skew, span)
            out[i] = np.uint64(rank * multiplier + offset) % np.uint64(n_folios)
        else:
            out[i] = int(unit * n_folios)


@_compiled
def draw_scan(out: NDArray[np.int64], first: int, n_folios: int) -> None:
    """Fill ``out`` with every folio in turn."""
    for i in range(len(out)):
        out[i] = (first + i) % n_folios


@_compiled
def draw_listed(
    out: NDArray[np.int64],
    first: int,
    key: Any,
    hot: NDArray[np.int64],
    hot_access_share: float,
    skew: float,
    multiplier: int,
    page_edges: NDArray[np.int64],
    folio_edges: NDArray[np.int64],
    orders: NDArray[np.int64],
) -> None:
    """Fill ``out`` from a list of hot folios; the rest uniform over the pages of several mappings."""
    n_hot = len(hot)
    span = _power_law_span(n_hot, skew)
    for i in range(len(out)):
        unit = _unit(key, 2 * (first + i) + 1)
        if n_hot and _unit(key, 2 * (first + i)) < hot_access_share:
            out[i] = hot[_power_law_rank(unit, n_hot, skew, span) * multiplier % n_hot]
        else:
            page = int(unit * page_edges[-1])
            m = 0
            while page >= page_edges[m + 1]:
                m += 1
            out[i] = folio_edges[m] + ((page - page_edges[m]) >> orders[m])


@_compiled
def touch(
    folios: NDArray[np.int64],
    base: int,
    frame_of: NDArray[Any],
    slot_shift: int,
    flags: NDArray[np.uint8],
    section_nid: NDArray[np.int32],
    counts: NDArray[np.int64],
    faults: NDArray[np.int64],
) -> int:
    """Access folios: count per node, set REFERENCED, clear PROT_NONE.

    Args:
        folios: int64[n], relative to ``base``.
        base: first virtual folio of the process.
        frame_of, slot_shift, flags: see :class:`gpuscan.sim.address_space.AddressSpace`.
        section_nid: node per flat section.
        counts: int64[1024], accesses per node, added to.
        faults: int64[>= n], filled with the positions in ``folios`` that faulted.

    Returns:
        How many faulted.
    """
    n, n_faults = len(folios), 0
    for i in range(n):
        # Each access is to other lines of both arrays than those before: they are on their way by then.
        if i + _FRAMES_AHEAD < n:
            prefetch(frame_of, base + folios[i + _FRAMES_AHEAD])
        if i + _FLAGS_AHEAD < n:
            prefetch(flags, np.int64(frame_of[base + folios[i + _FLAGS_AHEAD]]) >> slot_shift)
        frame = np.int64(frame_of[base + folios[i]])
        counts[section_nid[frame >> _SECTION_SHIFT]] += 1
        slot = frame >> slot_shift
        flag = flags[slot]
        if flag & PROT_NONE:
            faults[n_faults] = i
            n_faults += 1
        flags[slot] = (flag & ~np.uint8(PROT_NONE)) | np.uint8(REFERENCED)
    return n_faults


@_compiled
def unmap(
    lo: int,
    hi: int,
    now_ms: int,
    frame_of: NDArray[Any],
    slot_shift: int,
    flags: NDArray[np.uint8],
    unmapped_ms: NDArray[np.uint32],
    section_nid: NDArray[np.int32],
    scanned_nids: NDArray[np.uint8],
) -> int:
    """Set PROT_NONE on virtual folios ``[lo, hi)`` whose node has ``scanned_nids`` 1; return how many.

    One that is unmapped already keeps its time: change_pte_range() in mm/mprotect.c
    passes over protnone PTEs before it stores the scan time.
    """
    n_unmapped = 0
    for folio in range(lo, hi):
        frame = np.int64(frame_of[folio])
        slot = frame >> slot_shift
        if scanned_nids[section_nid[frame >> _SECTION_SHIFT]] and not flags[slot] & PROT_NONE:
            flags[slot] |= np.uint8(PROT_NONE)
            unmapped_ms[folio] = now_ms
            n_unmapped += 1
    return n_unmapped


@_compiled
def sample_positions(
    first: int, n_accesses: int, period: int, key: Any, useless_share: float, out: NDArray[np.int64]
) -> tuple[int, int]:
    """Pick one access in each ``period``, at random, and say which of them are of use.

    Args:
        first, n_accesses: accesses by number; those of a period may be split over several calls.
        period: accesses.
        key: of the random stream.
        useless_share: of the samples, whose address nobody can use.
        out: int64[>= n_accesses / period + 1], filled with positions from ``first`` on of useful samples.

    Returns:
        (useful samples, useless samples).
    """
    n_useful = 0
    n_useless = 0
    for window in range(first // period, (first + n_accesses - 1) // period + 1):
        sampled = window * period + int(_unit(key, 2 * window) * period)
        if first <= sampled < first + n_accesses:
            if _unit(key, 2 * window + 1) < useless_share:
                n_useless += 1
            else:
                out[n_useful] = sampled - first
                n_useful += 1
    return n_useful, n_useless


@_compiled
def remember_nid(folios: NDArray[np.int64], base: int, nid: int, last_nid: NDArray[np.int16]) -> None:
    """Set ``last_nid`` of folios (relative to ``base``) to the node they are accessed from."""
    for i in range(len(folios)):
        last_nid[base + folios[i]] = nid


@_compiled
def collect_accessed(
    lo: int,
    hi: int,
    frame_of: NDArray[Any],
    last_nid: NDArray[np.int16],
    section_nid: NDArray[np.int32],
    walked_nids: NDArray[np.uint8],
    folios: NDArray[np.int64],
    nids: NDArray[np.int16],
) -> int:
    """Test and clear the accessed bit of virtual folios ``[lo, hi)``: ``last_nid`` is -1 where it is clear.

    Args:
        lo, hi: which.
        frame_of, last_nid, section_nid: the page table; node of the last access, or -1; node per section.
        walked_nids: uint8[1024], 1 for nodes whose pages are looked at.
        folios, nids: int64[>= hi - lo], int16[>= hi - lo], filled with the folios that were accessed, and
            the node of their last access.

    Returns:
        How many were.
    """
    n_accessed = 0
    for folio in range(lo, hi):
        if last_nid[folio] >= 0 and walked_nids[section_nid[np.int64(frame_of[folio]) >> _SECTION_SHIFT]]:
            folios[n_accessed] = folio
            nids[n_accessed] = last_nid[folio]
            last_nid[folio] = -1
            n_accessed += 1
    return n_accessed


class Pages(NamedTuple):
    """Where the folios of a process are.

    Attributes:
        frame_of, section_nid: the page table, node per flat section.
        first_folios, orders: int64[m], first virtual folio of each mapping, ascending, and its order.
    """

    frame_of: NDArray[Any]
    section_nid: NDArray[np.int32]
    first_folios: NDArray[np.int64]
    orders: NDArray[np.int64]


class Units(NamedTuple):
    """Counters of accesses per unit of device memory.

    Attributes:
        downsampling: one access in so many is counted, at random.
        counters: uint32[n_units], counted up to ``counter_max``.
    """

    downsampling: int
    counters: NDArray[np.uint32]
    counter_max: int


@_compiled
def count_units(
    folios: NDArray[np.int64],
    base: int,
    first: int,
    key: Any,
    pages: Pages,
    regions: Regions,
    units: Units,
) -> int:
    """Count accesses per unit of device memory.

    Which page of a large folio an access goes to is drawn, and, where granules are smaller than a page, which
    byte of the page.

    Args:
        folios, base: as in :func:`touch`.
        first: number of the first access.
        key: of the random stream.
        pages: where folios are.
        regions: which device their memory is on.
        units: what is counted, and where.

    Returns:
        Accesses to devices, counted or not.
    """
    n_tracked = 0
    for i in range(len(folios)):
        folio = base + folios[i]
        frame = np.int64(pages.frame_of[folio])
        if regions.first_page[frame >> _SECTION_SHIFT] < 0:
            continue
        n_tracked += 1
        if units.downsampling > 1 and _unit(key, 2 * (first + i)) * units.downsampling >= 1.0:
            continue
        m = 0
        while m + 1 < len(pages.first_folios) and pages.first_folios[m + 1] <= folio:
            m += 1
        drawn = _unit(key, 2 * (first + i) + 1) * (1 << pages.orders[m])
        if pages.orders[m]:
            frame += np.int64(drawn)
        section = frame >> _SECTION_SHIFT
        page = regions.first_page[section] + (frame & _SECTION_MASK)
        hpa = (page << _PAGE_SHIFT) + np.int64((drawn - np.int64(drawn)) * (1 << _PAGE_SHIFT))
        granule = hpa >> regions.granularity_shift
        within = hpa - (granule << regions.granularity_shift)
        dpa = (granule // regions.ways << regions.granularity_shift) + within
        device = regions.first_unit[section] + granule % regions.ways * regions.n_units[section]
        unit = device + (dpa >> regions.unit_shift)
        if units.counters[unit] < units.counter_max:
            units.counters[unit] += np.uint32(1)
    return n_tracked


@_compiled
def second_chance(
    start: int,
    end: int,
    slot_shift: int,
    folio_of: NDArray[Any],
    nothing: Any,
    flags: NDArray[np.uint8],
    victims: NDArray[np.int64],
) -> tuple[int, int]:
    """Move a clock hand over frames ``[start, end)`` until ``victims`` is full.

    A mapped folio that is REFERENCED loses the flag; one that is not is a victim.

    Returns:
        (victims found, first frame not looked at).
    """
    n_victims = 0
    slot = (start - 1 >> slot_shift) + 1
    while slot << slot_shift < end and n_victims < len(victims):
        if folio_of[slot] != nothing:
            if flags[slot] & REFERENCED:
                flags[slot] &= ~np.uint8(REFERENCED)
            else:
                victims[n_victims] = slot << slot_shift
                n_victims += 1
        slot += 1
    return n_victims, min(slot << slot_shift, end)


@_compiled
def set_file_flags(
    slots: NDArray[np.int64],
    first: int,
    flags: NDArray[np.uint8],
    key: Any,
    file_share: float,
    dirty_share: float,
    exec_share: float,
) -> None:
    """Make a share of the folios in ``slots`` file-backed; shares of these dirty and shared executable."""
    for i in range(len(slots)):
        counter = 3 * (first + i)
        if _unit(key, counter) < file_share:
            flag = np.uint8(FILE)
            if _unit(key, counter + 1) < dirty_share:
                flag |= np.uint8(DIRTY)
            if _unit(key, counter + 2) < exec_share:
                flag |= np.uint8(EXEC_SHARED)
            flags[slots[i]] |= flag


def warm(index: np.dtype[Any]) -> None:
    """Compile every loop, or load it from the cache, so that no tick is charged for it.

    Args:
        index: dtype of the page table (:func:`gpuscan.sim.frames.index_dtype`).
    """
    none, table = np.empty(0, dtype=np.int64), np.empty(0, dtype=index)
    flags, times = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint32)
    nids, edges = np.empty(0, dtype=np.int32), np.zeros(2, dtype=np.int64)
    nids16, nids8 = np.empty(0, dtype=np.int16), np.empty(0, dtype=np.uint8)
    key = mix(np.uint64(0))
    draw_zipf(none, 0, np.uint64(key), 1, 1, 0.5, 0.5, 1, 0)
    draw_scan(none, 0, 1)
    draw_listed(none, 0, np.uint64(key), none, 0.5, 0.5, 1, edges, edges, none)
    touch(none, 0, table, 0, flags, nids, none, none)
    unmap(0, 0, 0, table, 0, flags, times, nids, flags)
    sample_positions(0, 0, 1, np.uint64(key), 0.5, none)
    remember_nid(none, 0, 0, nids16)
    collect_accessed(0, 0, table, nids16, nids, nids8, none, nids16)
    counters = np.empty(0, dtype=np.uint32)
    pages, regions = Pages(table, nids, none, none), Regions(none, none, none, 1, 12, 12)
    count_units(none, 0, 0, np.uint64(key), pages, regions, Units(1, counters, 1))
    for of_folios in (np.uint32, index.type):  # the reverse map is narrower where there are fewer folios
        second_chance(0, 0, 0, np.empty(0, dtype=of_folios), of_folios(0), flags, none)
    set_file_flags(none, 0, flags, np.uint64(key), 0.5, 0.5, 0.5)
