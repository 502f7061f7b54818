"""Steps that several kernels take: find a page, its folio and target, and mark it in the index."""

from __future__ import annotations

from gpuscan.kernels.cpu.arguments import Fields, Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_load, atomic_or, plain_load
from gpuscan.kernels.cpu.compile import helper


@helper
def find_flat(machine: Machine, pfn: int) -> int:
    """Return the flat index of a PFN, -1 in a hole.

    A table says where to begin among the extents; a search by halves mispredicts a branch at
    each step, which took 24 ns on random PFNs of 16 extents, as long as all the rest.
    """
    slot = (pfn >> machine.slot_shift) - machine.first_slot
    if slot < 0 or slot >= len(machine.extent_of_slot):
        return -1
    extent = plain_load(machine.extent_of_slot, slot)
    while extent < len(machine.pfn_end) and pfn >= plain_load(machine.pfn_end, extent):
        extent += 1
    if extent == len(machine.pfn_end) or pfn < plain_load(machine.pfn_start, extent):
        return -1
    flat: int = pfn + plain_load(machine.flat_offset, extent)
    return flat


@helper
def folio_pages(store: Store, flat: int) -> int:
    """Return the base pages of the folio that a page belongs to."""
    if len(store.folio_order) == 0:
        return 1
    order: int = plain_load(store.folio_order, flat)
    return 1 << order


@helper
def is_eligible(store: Store, head: int) -> bool:
    """Return whether the folio may be marked."""
    word: int = atomic_load(store.eligible_bits, head >> 6)
    return (word >> (head & 63)) & 1 != 0


@helper
def target_of(fields: Fields, word: int) -> int:
    """Return the target of a record."""
    if fields.nid_max == 0:
        return fields.fixed_target
    return (word >> fields.nid_shift) & fields.nid_max


@helper
def hotness_key(fields: Fields, word: int, now: int) -> int:
    """Return the rank key of a record, 0 the hottest (:func:`gpuscan.records.formats.hotness_key`)."""
    freq = (word >> fields.freq_shift) & fields.freq_max
    age = (now - ((word >> fields.time_shift) & fields.time_max)) & fields.time_max
    return (fields.freq_max - freq) * fields.n_age_buckets + (age >> fields.age_shift)


@helper
def index_word(store: Store, word_index: int, bits: int) -> None:
    """Index READY pages of one ready word: their ready bits, then the block bit.

    A bit that is set already is not set again. The load that sees it comes after the
    read-modify-write of the level below in the one order of all sequentially consistent
    operations, so a scan that clears the bit later finds what this producer wrote there.
    """
    if ~atomic_load(store.ready_bits, word_index) & bits != 0:
        atomic_or(store.ready_bits, word_index, bits)
    block = 1 << ((word_index >> 3) & 63)
    if atomic_load(store.block_bits, word_index >> 9) & block == 0:
        atomic_or(store.block_bits, word_index >> 9, block)


@helper
def set_index(store: Store, head: int) -> None:
    """Index one READY page."""
    index_word(store, head >> 6, 1 << (head & 63))


@helper
def activate_node(store: Store, section: int) -> None:
    """Note that the node of a section has something to scan."""
    nid = plain_load(store.section_nid, section)
    if atomic_load(store.node_active, nid) == 0:
        atomic_or(store.node_active, nid, 1)


@helper
def publish(store: Store, word_index: int, bits: int) -> None:
    """Index pages of one ready word whose records just became READY, and activate their node; maybe none."""
    if bits != 0:
        index_word(store, word_index, bits)
        activate_node(store, word_index >> 9)


@helper
def blocks_between(lo: int, hi: int) -> int:
    """Return the bits of the blocks of ``[lo, hi)``, inside one section, in its block word."""
    first = (lo >> 9) & 63
    n_blocks = (hi - lo) >> 9
    if n_blocks == 64:
        return -1
    return ((1 << n_blocks) - 1) << first
