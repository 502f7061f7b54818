"""Ready words of any fill: claimed one by one and together, grouped with runs of a target and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.kernels.api import Kernels, ScanRequest, StoreArrays, StoreLayout
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS, pack
from stores import assert_same_plan, assert_same_store, plain_layout

N_WORD = 64


def dense_store(layout: StoreLayout, n_alike: int, rng: np.random.Generator) -> StoreArrays:
    """Return records that are READY in a share of each 64 pages that is drawn for these 64.

    Half of the ready words have stale bits besides, all 64: what looks as if it could be claimed together
    has neighbours that are not READY. ``n_alike`` pages in a row have one target, which may be none of the
    machine's.
    """
    n_pages, fmt = layout.n_pages, layout.fmt
    shares = rng.choice([0.0, 0.3, 0.6, 0.95, 1.0], n_pages // N_WORD)
    ready = rng.random(n_pages) < np.repeat(shares, N_WORD)
    nids = np.repeat(rng.integers(0, layout.n_targets + 1, -(-n_pages // n_alike)), n_alike)[:n_pages]
    records = pack(
        fmt,
        ready=ready,
        nid=nids if fmt.has_nid else 0,
        freq=rng.integers(0, fmt.freq.max + 1, n_pages),
        time=rng.integers(0, fmt.time.max + 1, n_pages),
    )
    ready_bits = np.packbits(ready, bitorder="little").view(np.uint64)
    ready_bits[rng.random(len(ready_bits)) < 0.5] = ~np.uint64(0)
    block_bits = np.packbits(np.ones(n_pages // 512, dtype=np.bool_), bitorder="little").view(np.uint64)
    return StoreArrays(records, ready_bits, block_bits, None, None, None)


@pytest.mark.parametrize("path", ["dense", "indexed"])
@pytest.mark.parametrize("format_name", STORE_FORMATS)
@pytest.mark.parametrize("n_alike", [1, 3, 200])
def test_words_of_any_fill(format_name: str, path: Any, n_alike: int) -> None:
    layout = plain_layout(format_name, n_sections=1)
    arrays = dense_store(layout, n_alike, np.random.default_rng(n_alike))
    opened: list[Kernels]
    plans, opened = [], [ReferenceBackend().open(layout), CpuBackend(2).open(layout)]
    for kernels in opened:
        kernels.load(arrays)
        plans.append(kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path)))
    assert_same_plan(plans[1], plans[0])
    assert_same_store(opened[1], opened[0])
