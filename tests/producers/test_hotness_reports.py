"""What the driver of hotness monitoring units reads, when, and what its reports say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.producers.built_in.hotness_unit import epoch_in_force_ns
from gpuscan.producers.catalogue import producer_of
from gpuscan.producers.contract import Observed
from gpuscan.sim.hotness_units import HotnessUnits, HotnessUnitSpec
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec, PatternSpec, ProcessSpec
from gpuscan.workload.files import load_workload
from machines import tiered

MS = 1_000_000
TICK = 100 * MS
ON_NODE_2 = 5 * 32_768
"""First PFN of node 2."""


def machine(
    spec: HotnessUnitSpec, n_pages: int = 100, order: int = 0, rate: float = 1000.0
) -> SimulatedMachine:
    """Return a machine whose process touches pages of node 2 in turn, 100 in an epoch of a tick."""
    process = ProcessSpec("app", n_pages, (0,), rate, ((2, 1.0),), order, pattern=PatternSpec(kind="scan"))
    return SimulatedMachine(tiered(), MachineSpec((process,), producer=spec))


def counts_of(seen: Observed) -> list[int]:
    assert seen.counts is not None
    return seen.counts.tolist()


def ticks(sim: SimulatedMachine, n_ticks: int) -> list[Observed]:
    producer = producer_of(sim)
    return [producer.observe(k * TICK, TICK) for k in range(n_ticks)]


def test_a_list_waits_until_more_than_half_of_it_is_filled() -> None:
    """100 units an epoch on a list of 599: 299 is half, so it is read after three epochs. All counts come,
    and all at once: 3 for each page.
    """
    spec = HotnessUnitSpec(epoch_ns=TICK, threshold=1, list_entries=599)
    seen = ticks(machine(spec), 6)
    assert [one.metrics["interrupts"] for one in seen] == [0, 0, 1, 0, 0, 1]
    assert [one.metrics["list_waiting"] for one in seen] == [100, 200, 0, 100, 200, 0]
    assert [one.metrics["list_entries"] for one in seen] == [0, 0, 300, 0, 0, 300]
    assert [len(one.pfns) for one in seen] == [0, 0, 100, 0, 0, 100]
    assert counts_of(seen[2]) == [3] * 100
    at_ns = seen[2].at_ns
    assert at_ns is not None
    assert at_ns.tolist() == [3 * TICK] * 100
    exactly_half = HotnessUnitSpec(epoch_ns=TICK, threshold=1, list_entries=600)
    assert [one.metrics["interrupts"] for one in ticks(machine(exactly_half), 4)] == [0, 0, 0, 1]


def test_a_unit_that_finds_no_room_makes_the_host_read() -> None:
    """A list of 161 holds 160: 100, then 60 of the next 100, from the first unit on."""
    spec = HotnessUnitSpec(epoch_ns=TICK, threshold=1, list_entries=161, interrupt_share=1.0)
    seen = ticks(machine(spec), 2)
    assert [one.metrics["list_overflow"] for one in seen] == [0, 40]
    assert [one.metrics["interrupts"] for one in seen] == [0, 1]
    assert counts_of(seen[1]) == [2] * 60 + [1] * 40


def test_a_page_is_reported_with_the_count_of_its_unit() -> None:
    """100 accesses in turn to 40 pages, 10 to a unit: 30, 30, 20 and 20 to a unit, and so to each page."""
    spec = HotnessUnitSpec(unit_bytes=16 * 4096, epoch_ns=TICK, threshold=1, interrupt_share=0.0)
    (seen,) = ticks(machine(spec, n_pages=40), 1)
    assert seen.metrics["list_entries"] == seen.metrics["ranges"] == 3
    assert counts_of(seen) == [48] * 16 + [36] * 16 + [16] * 8
    with_a_threshold = HotnessUnitSpec(
        unit_bytes=16 * 4096, epoch_ns=TICK, threshold=40, interrupt_share=0.0, counter_bits=6
    )
    (seen,) = ticks(machine(with_a_threshold, n_pages=40), 1)
    assert counts_of(seen) == [48] * 16


def test_a_large_folio_is_reported_with_what_its_units_add_up_to() -> None:
    spec = HotnessUnitSpec(epoch_ns=TICK, threshold=1, interrupt_share=0.0)
    (seen,) = ticks(machine(spec, n_pages=1024, order=9), 1)
    assert seen.pfns.tolist() == [ON_NODE_2, ON_NODE_2 + 512]
    assert counts_of(seen) == [50, 50]
    # A unit of 4 MiB is one range, and each of its two folios inherits all of its count.
    wide = HotnessUnitSpec(unit_bytes=4 << 20, epoch_ns=TICK, threshold=1, interrupt_share=0.0)
    (seen,) = ticks(machine(wide, n_pages=1024, order=9), 1)
    assert counts_of(seen) == [100, 100]
    assert seen.metrics["ranges"] == 1


def test_interleaved_units_are_reported_in_pieces() -> None:
    """A unit of 16 pages of a device: every second page of 32, each a range of its own."""
    spec = HotnessUnitSpec(
        unit_bytes=16 * 4096, epoch_ns=TICK, threshold=1, interrupt_share=0.0, ways=2, page_ns=7.0
    )
    (seen,) = ticks(machine(spec), 1)
    # Devices 0 and 1, four units each: the last ones have four pages (of 96 to 103) that the process has.
    assert seen.metrics["list_entries"] == 8
    assert seen.metrics["ranges"] == 128
    assert seen.metrics["producer_cost_ns"] == 8 * 1000 + 128 * 7
    assert (seen.pfns - ON_NODE_2).tolist() == list(range(100))
    assert counts_of(seen) == [16] * 96 + [2] * 4


def test_granules_smaller_than_a_page_hide_pages_from_the_driver() -> None:
    spec = HotnessUnitSpec(epoch_ns=TICK, threshold=1, interrupt_share=0.0, ways=4, granularity_bytes=256)
    (seen,) = ticks(machine(spec), 1)
    # A unit of a device has a quarter of four pages, and all four devices report the first of these.
    assert (seen.pfns - ON_NODE_2).tolist() == list(range(0, 100, 4))
    assert sum(counts_of(seen)) == 100


@pytest.mark.parametrize(
    ("asked", "in_force"),
    [
        (1, 100_000),
        (250_999, 200_000),
        (409_599_999, 409_500_000),  # 4,095 times 100 us
        (409_600_000, 409_000_000),  # in whole milliseconds from here on
        (4_095_999_999, 4_095_000_000),
        (4_099_000_000, 4_090_000_000),
        (10**13, 4_095 * 10**9),
    ],
)
def test_an_epoch_is_what_a_device_can_be_told(asked: int, in_force: int) -> None:
    assert epoch_in_force_ns(asked) == in_force
    workload = load_workload("cxl-promote", [f"producer.hotness_unit.epoch={asked}ns"])
    producer: Any = workload.producer  # it has the options of every kind
    spec = producer.hotness_unit.spec(tiered())
    assert spec.epoch_ns == in_force


def test_a_list_has_65_535_entries_at_most() -> None:
    workload = load_workload("cxl-promote", ["producer.hotness_unit.list_entries=100000"])
    producer: Any = workload.producer
    assert producer.hotness_unit.spec(tiered()).list_entries == 65_535


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_listed", [3, 0], "listed_units has 100 elements, not 3"),
        ("listed_units", np.full(100, 1 << 20), "units that a device does not have"),
        ("next_unit", [0], "not a list of 2"),
        ("listed_counts", np.full(100, -1), "below 0"),
    ],
)
def test_units_go_on_from_no_state_but_their_own(name: str, value: object, message: str) -> None:
    def units() -> HotnessUnits:
        sim = machine(HotnessUnitSpec(threshold=1))
        made = HotnessUnits(HotnessUnitSpec(threshold=1), sim.space, sim.page_map, [2, 3], 0)
        sim.run(0, TICK, made)
        return made

    kept = units()
    kept.end_epoch()
    assert kept.n_waiting == 100
    other = units()
    other.restore(kept.state())
    assert other.state().keys() == kept.state().keys()
    assert other.n_waiting == 100
    with pytest.raises(ValueError, match=message):
        other.restore({**kept.state(), name: value})
