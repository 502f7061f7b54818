"""Stores for the kernel tests: page maps with holes and ragged ends, random records at rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuscan.kernels.api import (
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    Kernels,
    RawPlan,
    StoreArrays,
    StoreLayout,
    empty_node_flags,
)
from gpuscan.kernels.cpu import backend, batches, budget, scan
from gpuscan.records.formats import FORMATS, STORE_FORMATS, pack, unpack
from gpuscan.records.page_map import SECTION_PAGES, Extent, PageMap

NONE = np.zeros(0, dtype=np.uint8)
EXAMPLES = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
"""Of stores that are compared: each takes long."""
ARRAYS = ("records", "ready_bits", "block_bits", "eligible_bits", "folio_order", "node_active")


@contextmanager
def always_parallel() -> Iterator[None]:
    """Let small work be split over threads too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "PARALLEL_FROM_BLOCKS", 0)
        patch.setattr(scan, "BLOCKS_PER_PIECE", 1)
        patch.setattr(budget, "PARALLEL_FROM_BLOCKS", 0)
        patch.setattr(scan, "PARALLEL_FROM_PAGES", 0)
        patch.setattr(backend, "PARALLEL_FROM_ITEMS", 0)
        patch.setattr(batches, "PARALLEL_FROM_ITEMS", 1)
        patch.setattr(batches, "_BATCH_ITEMS_MIN", 1)
        yield


def layout_of(
    extents: list[Extent], format_name: str = "rfc", n_targets: int = 8, *, large_folios: bool = False
) -> StoreLayout:
    """Return a layout whose nodes 0 to ``n_targets - 1`` can be targets; node 0 is the top tier."""
    fmt = FORMATS[format_name]
    flags = empty_node_flags()
    flags[:n_targets] = NODE_HAS_MEMORY
    flags[0] |= NODE_TOP_TIER
    return StoreLayout(PageMap.from_extents(extents), fmt, flags, -1 if fmt.has_nid else 0, large_folios)


def plain_layout(format_name: str = "rfc", n_sections: int = 2, n_targets: int = 8) -> StoreLayout:
    """Return a layout of ``n_sections`` on each of nodes 0 and 1, flat = PFN."""
    half = n_sections * SECTION_PAGES
    return layout_of([Extent(0, half, 0, 0), Extent(half, 2 * half, 1, 1)], format_name, n_targets)


@dataclass(frozen=True)
class Filling:
    """What a random store at rest contains, in shares of its pages."""

    ready: float
    counted: float = 0.0
    stale: float = 0.0
    full_blocks: int = 0
    unknown_targets: bool = False


@st.composite
def layouts(draw: st.DrawFn) -> StoreLayout:
    """Extents of one to many zones, inside a section or over several, with holes or without."""
    extents, pfn = [], draw(st.integers(0, 3)) * 20_000
    for zone in range(draw(st.integers(1, 4))):
        n_pages = draw(st.sampled_from([1, 63, 512, 700, 32_768, 40_001]))
        extents.append(Extent(pfn, pfn + n_pages, draw(st.integers(0, 5)), zone))
        pfn += n_pages + draw(st.sampled_from([0, 0, 1, 5_000, 100_000]))
    name = draw(st.sampled_from(STORE_FORMATS))
    n_targets = draw(st.sampled_from([1, 3, 8, 1024]))
    return layout_of(extents, name, n_targets, large_folios=draw(st.booleans()))


fillings = st.builds(
    Filling,
    ready=st.sampled_from([0.0, 1e-5, 1e-3, 3e-2]),
    counted=st.sampled_from([0.0, 1e-2]),
    stale=st.sampled_from([0.0, 1e-3, 1.0]),
    full_blocks=st.integers(0, 3),
    unknown_targets=st.booleans(),
)
seeds = st.integers(0, 2**32 - 1)


def random_store(layout: StoreLayout, filling: Filling, rng: np.random.Generator) -> StoreArrays:
    """Return arrays at rest: READY(record) => ready bit => block bit, some bits stale."""
    fmt, n_pages = layout.fmt, layout.n_pages
    order = np.zeros(n_pages if layout.has_large_folios else 0, dtype=np.uint8)
    if layout.has_large_folios:
        for size in (9, 4, 1):
            heads = rng.integers(0, n_pages >> size, 8)
            for head in heads.tolist():
                span = slice(head << size, (head + 1) << size)
                if not order[span].any():
                    order[span] = size
    head = np.ones(n_pages, dtype=np.bool_)
    if layout.has_large_folios:
        head = np.arange(n_pages) % (1 << order.astype(np.int64)) == 0
    ready = rng.random(n_pages) < filling.ready
    for block in rng.integers(0, n_pages // 512, filling.full_blocks).tolist():
        ready[block * 512 : (block + 1) * 512] = True
    ready &= head
    touched = ready | (rng.random(n_pages) < filling.counted)
    n_nids = layout.n_targets + 3 * filling.unknown_targets
    records = pack(
        fmt,
        ready=ready.astype(np.uint8),
        nid=np.where(touched, rng.integers(0, min(n_nids, 1024), n_pages), 0) if fmt.has_nid else 0,
        freq=np.where(touched, rng.integers(0, min(fmt.freq.max, 2) + 1, n_pages), 0),
        time=np.where(touched, rng.integers(0, fmt.time.max + 1, n_pages), 0),
    )
    marked = ready | (rng.random(n_pages) < filling.stale)
    blocks = marked.reshape(-1, 512).any(axis=1) | (rng.random(n_pages // 512) < filling.stale)
    return StoreArrays(
        records=records,
        ready_bits=bitmap(marked),
        block_bits=bitmap(blocks),
        eligible_bits=bitmap(rng.random(n_pages) < 0.9),
        folio_order=order,
        node_active=np.zeros(1024, dtype=np.uint8),
    )


def bitmap(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return flags as 64-bit words, the first flag lowest."""
    return np.packbits(flags, bitorder="little").view(np.uint64)


def bits_of(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return the flags of a bitmap."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)


def assert_same_store(one: Kernels, other: Kernels) -> None:
    """Compare every array."""
    mine, theirs = one.dump(), other.dump()
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def assert_same_plan(one: RawPlan, other: RawPlan) -> None:
    """Compare everything that is the same whatever the backend and the path."""
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.flat, other.flat)
    np.testing.assert_array_equal(one.words, other.words)
    assert (one.cursor, one.n_unknown_target) == (other.cursor, other.n_unknown_target)


def assert_indexed(kernels: Kernels) -> None:
    """Check invariant 1: READY(record) => ready bit => block bit."""
    arrays = kernels.dump()
    ready = unpack(kernels.layout.fmt, arrays.records).ready
    marked = bits_of(arrays.ready_bits)
    assert not (ready & ~marked).any(), "a READY record without its ready bit"
    assert not (marked.reshape(-1, 512).any(axis=1) & ~bits_of(arrays.block_bits)).any(), (
        "a ready bit without its block bit"
    )


def assert_sorted(plan: RawPlan) -> None:
    """Check that every group of a plan ascends."""
    for start, end in zip(plan.offsets[:-1], plan.offsets[1:], strict=True):
        assert (np.diff(plan.flat[start:end]) > 0).all()


def drained(kernels: Kernels, requests: Any) -> dict[int, tuple[int, int]]:
    """Scan until the range is covered; return {flat: (target, word)}.

    ``requests(cursor)`` makes the next request; with None, the first.
    """
    found: dict[int, tuple[int, int]] = {}
    cursor, hi = requests(None).lo, requests(None).hi
    while cursor < hi:
        request = requests(cursor)
        plan = kernels.scan(request)
        assert plan.cursor > cursor
        assert len(plan.flat) <= request.capacity
        assert_sorted(plan)
        for target in range(len(plan.offsets) - 1):
            for index in range(plan.offsets[target], plan.offsets[target + 1]):
                assert plan.flat[index] not in found
                found[int(plan.flat[index])] = (target, int(plan.words[index]))
        cursor = plan.cursor
        plan.recycle()
    return found
