"""What kernels are given: named tuples of arrays and integers, which Numba takes apart at the call.

A record format is an argument too (:class:`Fields`), not a constant: one compiled
kernel then serves every format of a record width, and no cached code knows a shift.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Cutoffs
from gpuscan.kernels.layout import StoreArrays, StoreLayout
from gpuscan.kernels.signatures import MAX_ORDER
from gpuscan.records.formats import RecordFormat
from gpuscan.records.page_map import SECTION_PAGES

N_REGIONS = 512
"""Regions a machine is divided into, by which producers order what they mark."""
N_BUCKETS = 256
"""Buckets a region is divided into, by which they order what they mark next."""
_BUCKET_PAGES_MIN = 512
"""Of buckets up to that the region's bitmaps stay in the first-level cache, and ordering is not worth it."""
_BUCKETS_MIN = 16
"""Buckets that a region must have, for the same reason."""
SLOT_IS_SEARCHED = N_REGIONS
"""Of the word of a slot: its flat offset is not in it, and the extents are searched."""
OFFSET_SHIFT = (2 * N_REGIONS).bit_length() - 1
"""Of the word of a slot: which flat offset it has, above flag and region."""
_OFFSETS_MAX = 1 << (16 - OFFSET_SHIFT)
_SLOTS_MAX = 1 << 16
"""Slots of the table over the extents: 256 KiB at most. One section each up to 8 TiB of addresses."""


class Fields(NamedTuple):
    """A record format: shifts, widths as maxima (0 = the field is not there), and the key's geometry."""

    ready: int
    nid_shift: int
    nid_max: int
    freq_shift: int
    freq_max: int
    time_shift: int
    time_max: int
    age_shift: int
    n_age_buckets: int
    fixed_target: int


class Store(NamedTuple):
    """The arrays of a store and what never changes in its life.

    ``wide_records`` is ``records`` seen as int64, ``wide_ready`` READY in every
    record of such a word. ``section_nid`` is int32[n_sections].
    """

    fields: Fields
    records: NDArray[Any]
    wide_records: NDArray[np.int64]
    wide_ready: int
    ready_bits: NDArray[np.uint64]
    block_bits: NDArray[np.uint64]
    eligible_bits: NDArray[np.uint64]
    folio_order: NDArray[np.uint8]
    node_active: NDArray[np.uint8]
    section_nid: NDArray[np.int32]


class Machine(NamedTuple):
    """Where PFNs are, and what nodes may do: the extent table of the page map, and ``node_flags``.

    ``extent_of_slot``, int32[n], has the first extent that ends in or behind each slot of
    ``2**slot_shift`` PFNs, beginning with slot ``first_slot``. ``slot_words``, uint16[n], have the region
    of each slot, of N_REGIONS with about as many pages each, and which of ``offsets``, int64[m], its flat
    pages have; or SLOT_IS_SEARCHED, where it is not all in one extent, or there are too many. Those of
    1 TiB, 16 KiB, stay in the first-level cache. A bucket has ``2**bucket_shift`` pages, and no folio is in
    two; -1 where there are none.
    """

    pfn_start: NDArray[np.int64]
    pfn_end: NDArray[np.int64]
    flat_offset: NDArray[np.int64]
    node_flags: NDArray[np.uint8]
    slot_shift: int
    first_slot: int
    extent_of_slot: NDArray[np.int32]
    slot_words: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    bucket_shift: int


class Cuts(NamedTuple):
    """The cut-offs of a budget, as :class:`gpuscan.kernels.api.Cutoffs`; ``cut_key`` is empty without one."""

    now: int
    cut_key: NDArray[np.int32]
    above_pages: NDArray[np.int64]
    tie_pages_from: NDArray[np.int64]
    tie_pages_below: NDArray[np.int64]
    resume_flat: NDArray[np.int64]


class Segment(NamedTuple):
    """Where a scan stages claims, by target, each in flat order.

    Python hands it to a kernel unpacked: to see what a named tuple holds takes Numba a microsecond a call.

    Attributes:
        claims: int64[n], each with its page and the word taken (:mod:`gpuscan.kernels.cpu.claims`), in strips
            of one target (:mod:`gpuscan.kernels.cpu.staging`).
        owners: int32[n_strips], the target of each strip that was handed out.
        places: int64[n], behind the last claim of each target that a record may have, and of as many as are
            read at once (:data:`gpuscan.kernels.cpu.staging_vectors.FEW_TARGETS`); 0 where there is none.
        n_of_target: int64[n_targets + 1], claims of each target, the last for unknown ones.
        state: int64[STATE_LENGTH], see :mod:`gpuscan.kernels.cpu.staging`.
    """

    claims: NDArray[np.int64]
    owners: NDArray[np.int32]
    places: NDArray[np.int64]
    n_of_target: NDArray[np.int64]
    state: NDArray[np.int64]


def fields_of(fmt: RecordFormat, fixed_target: int) -> Fields:
    """Return a format as kernels take it."""
    return Fields(
        ready=fmt.ready.mask,
        nid_shift=fmt.nid.shift,
        nid_max=fmt.nid.max,
        freq_shift=fmt.freq.shift,
        freq_max=fmt.freq.max,
        time_shift=fmt.time.shift,
        time_max=fmt.time.max,
        age_shift=fmt.age_bucket_shift,
        n_age_buckets=fmt.n_age_buckets,
        fixed_target=fixed_target,
    )


def store_of(layout: StoreLayout, arrays: StoreArrays) -> Store:
    """Return a store as kernels take it. Views, no copies."""
    fmt = layout.fmt
    wide_ready = np.full(8 // fmt.n_bytes, fmt.ready.mask, dtype=fmt.dtype).view(np.int64)
    return Store(
        fields=fields_of(fmt, layout.fixed_target),
        records=arrays.records,
        wide_records=arrays.records.view(np.int64),
        wide_ready=int(wide_ready[0]),
        ready_bits=arrays.ready_bits,
        block_bits=arrays.block_bits,
        eligible_bits=arrays.eligible_bits,
        folio_order=arrays.folio_order,
        node_active=arrays.node_active,
        section_nid=plain(layout.page_map.section_nid, np.int32),
    )


def machine_of(layout: StoreLayout) -> Machine:
    """Return the extent table as kernels take it."""
    pages = layout.page_map
    starts, ends = plain(pages.extent_pfn_start, np.int64), plain(pages.extent_pfn_end, np.int64)
    first_pfn, last_pfn = int(starts[0]), int(ends[-1]) - 1
    shift = SECTION_PAGES.bit_length() - 1
    while (last_pfn >> shift) - (first_pfn >> shift) >= _SLOTS_MAX:
        shift += 1
    first_slot = first_pfn >> shift
    slots = np.arange(first_slot, (last_pfn >> shift) + 1, dtype=np.int64)
    first_pfns = slots << shift
    extents = np.searchsorted(ends, first_pfns, side="right")
    n_before = np.append(0, np.cumsum(ends - starts))[extents] + np.maximum(first_pfns - starts[extents], 0)
    n_pages = int((ends - starts).sum())
    regions = n_before * N_REGIONS // n_pages
    offsets = plain(pages.extent_flat_offset, np.int64)
    different, which, n_slots = np.unique(offsets[extents], return_inverse=True, return_counts=True)
    by_slots = np.argsort(-n_slots, kind="stable")  # where there are too many, the rare ones are searched for
    number = np.argsort(by_slots)[which]
    is_searched = (first_pfns < starts[extents]) | (first_pfns + (1 << shift) > ends[extents])
    is_searched |= number >= _OFFSETS_MAX
    words = np.where(is_searched, SLOT_IS_SEARCHED, number << OFFSET_SHIFT) | regions
    return Machine(
        starts,
        ends,
        offsets,
        plain(layout.node_flags, np.uint8),
        shift,
        first_slot,
        extents.astype(np.int32),
        words.astype(np.uint16),
        different[by_slots],
        _bucket_shift(layout),
    )


def _bucket_shift(layout: StoreLayout) -> int:
    """Return how many pages a bucket has, as a power of two; -1 if there shall be none."""
    bucket_pages = -(-layout.n_pages // (N_REGIONS * N_BUCKETS))
    if bucket_pages <= _BUCKET_PAGES_MIN:
        return -1
    shift = (bucket_pages - 1).bit_length()
    if layout.has_large_folios:  # else pages of one folio would be marked in another order than asked for
        shift = max(shift, MAX_ORDER)
    return shift if layout.n_pages >= N_REGIONS * _BUCKETS_MIN << shift else -1


def cuts_of(cuts: Cutoffs | None) -> Cuts:
    """Return cut-offs as kernels take them; the quotas stay shared, since scans count them down."""
    if cuts is None:
        return _NO_CUTS
    return Cuts(
        cuts.now, cuts.cut_key, cuts.above_pages, cuts.tie_pages_from, cuts.tie_pages_below, cuts.resume_flat
    )


def plain(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return ``array`` as the one array type that kernels are compiled for, copied only if it is another."""
    return np.require(array, dtype=dtype, requirements=["C", "A", "W"])


_QUOTAS = np.zeros((0, 0), dtype=np.int64)
_NO_CUTS = Cuts(0, np.zeros(0, dtype=np.int32), _QUOTAS, _QUOTAS, _QUOTAS, np.zeros(0, dtype=np.int64))
