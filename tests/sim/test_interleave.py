"""Interleaved devices against a region dealt out by hand, 256 bytes after 256 bytes."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.interleave import Interleaving
from gpuscan.sim.loops import Pages, Units, count_units, mix
from machines import tiered

CHUNK = 256
N_CHUNKS = SECTION_PAGES * PAGE_BYTES // CHUNK
NODE_2 = 2 * SECTION_PAGES
"""First flat page of node 2, a section."""


def dealt(ways: int, granularity: int) -> list[np.ndarray]:
    """Deal a region of one section out; return the chunk of the region behind each chunk of each device."""
    granules = np.arange(N_CHUNKS).reshape(-1, granularity // CHUNK)
    return [granules[way::ways].ravel() for way in range(ways)]


CASES = [
    # ways, granularity, unit, runs of 16 units, pages found of each 48
    (1, 4096, 4096, 16, 48),
    (2, 4096, 8192, 32, 48),
    (3, 8192, 16384, 32, 48),
    (2, 16384, 16384, 16, 48),
    (4, 256, 4096, 16, 12),  # the first of four pages that each page of a device holds parts of
    (16, 2048, 8192, 32, 24),
    (12, 1024, 4096, 16, 12),
]


@pytest.mark.parametrize(("ways", "granularity", "unit_bytes", "n_runs", "found"), CASES)
def test_the_driver_finds_the_page_of_each_device_page_s_first_byte(
    ways: int, granularity: int, unit_bytes: int, n_runs: int, found: int
) -> None:
    page_map = tiered().page_map
    devices = Interleaving(page_map, [2, 3], ways, granularity, unit_bytes)
    assert [device.way for device in devices.devices] == [*range(ways)] * 2
    chunks = dealt(ways, granularity)
    everything = []
    for device in devices.devices[:ways]:
        units = np.arange(16)
        runs = devices.pages_in(device, units)
        first_bytes = chunks[device.way][np.arange(16 * unit_bytes // PAGE_BYTES) * (PAGE_BYTES // CHUNK)]
        expected = first_bytes * CHUNK // PAGE_BYTES
        assert runs.frames.tolist() == (NODE_2 + expected).tolist()
        assert runs.of_unit.tolist() == np.repeat(units, unit_bytes // PAGE_BYTES).tolist()
        assert int(runs.starts_run.sum()) == n_runs
        assert runs.n_translated == len(expected)
        all_units = devices.pages_in(device, np.arange(device.n_units))
        everything.append(all_units.frames)
    frames = np.concatenate(everything) - NODE_2
    assert frames.min() == 0
    assert frames.max() < SECTION_PAGES
    in_48 = np.unique(frames[frames < 48])
    assert len(in_48) == found


@pytest.mark.parametrize(("ways", "granularity", "unit_bytes"), [case[:3] for case in CASES])
def test_an_access_is_counted_where_its_byte_is(ways: int, granularity: int, unit_bytes: int) -> None:
    """8,000 accesses to each of ten pages, whose bytes are drawn where a page has several devices."""
    page_map = tiered().page_map
    devices = Interleaving(page_map, [2, 3], ways, granularity, unit_bytes)
    chunks = dealt(ways, granularity)
    pages = np.array([0, 1, 2, 3, 5, 7, 11, 1000, 20_000, 32_767])
    frame_of = np.append(NODE_2 + pages, 0).astype(np.uint32)  # the last one is on node 0
    folios = np.repeat(np.arange(11), 8000)
    where = Pages(frame_of, page_map.section_nid, np.zeros(1, np.int64), np.zeros(1, np.int64))
    counters = np.zeros(devices.n_units, dtype=np.uint32)
    key = np.uint64(mix(np.uint64(5)))
    n_tracked = count_units(folios, 0, 0, key, where, devices.regions, Units(1, counters, 1 << 20))
    assert n_tracked == counters.sum() == 80_000
    expected = np.zeros(devices.n_units)
    for device in devices.devices[:ways]:
        own = np.full(N_CHUNKS, -1)
        own[chunks[device.way]] = np.arange(len(chunks[device.way])) * CHUNK // unit_bytes
        for page in pages:
            units = own[page * 16 : page * 16 + 16]
            np.add.at(expected, device.first_unit + units[units >= 0], 8000 / 16)
    assert (counters[expected == 0] == 0).all()
    assert np.abs(counters - expected).max() < 250  # five standard deviations of 500 in 8,000
    if granularity >= PAGE_BYTES or ways == 1:
        np.testing.assert_array_equal(counters, expected)


def test_a_unit_may_be_larger_than_a_section_and_than_a_device() -> None:
    page_map = tiered(2).page_map
    (one, other) = Interleaving(page_map, [2, 3], 1, 4096, 512 << 20).devices
    assert (one.n_units, other.first_unit) == (1, 1)
    devices = Interleaving(page_map, [2, 3], 1, 4096, 512 << 20)
    runs = devices.pages_in(other, np.array([0]))
    assert runs.frames.tolist() == list(range(6 * SECTION_PAGES, 8 * SECTION_PAGES))
    assert runs.n_translated == 4 * SECTION_PAGES  # half of which is nothing
