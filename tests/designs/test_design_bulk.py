"""Marks made in bulk against the same made one by one, on machines with holes and all that is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.designs.built_in.per_folio import PerFolio
from gpuscan.designs.built_in.section_flag_next import HINTFAULTS, HWHINTS, NextTunables, SectionFlagNext
from gpuscan.designs.built_in.zone_flag import ZoneFlag
from gpuscan.designs.machine import ArrayMachine, ZoneSpan
from gpuscan.designs.model import Model
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import PghotTunables
from gpuscan.designs.rfc import RfcFixed, RfcV1
from gpuscan.records.page_map import SECTION_PAGES

N_PAGES = 64
FIRST_PFN = SECTION_PAGES - 32  # in two sections
PGHOT = ("pghot", "pghot-compact", "next-pghot", "next-pghot-compact")
NAMES = ("rfc-v1", "rfc-fixed", "zone-flag", "per-folio", *PGHOT)


def machine(rng: np.random.Generator, *, huge: bool) -> ArrayMachine:
    """Return a machine of which node 2 is below the top tier, in a zone, another and device memory."""
    nid = np.where(np.arange(N_PAGES) < 12, 0, 2)
    end = FIRST_PFN + N_PAGES
    zones = [
        ZoneSpan(0, FIRST_PFN, FIRST_PFN + 12),
        ZoneSpan(1, 0, 0),
        ZoneSpan(2, FIRST_PFN + 12, FIRST_PFN + 40),
        ZoneSpan(2, FIRST_PFN + 40, end - 4),
        ZoneSpan(2, end - 4, end, device=True),
    ]
    head = np.arange(N_PAGES)
    alike = np.arange(N_PAGES) // (4 if huge else 1)
    if huge:
        head = head // 4 * 4
    valid, online, lru = (rng.random((3, N_PAGES)) < [[0.95], [0.9], [0.9]])[:, alike]
    return ArrayMachine(
        nid,
        zones,
        first_pfn=FIRST_PFN,
        valid=valid,
        online=online,
        lru=lru,
        head=head + FIRST_PFN,
        top_tier=(0, 1),
    )


def made(name: str, pages: ArrayMachine) -> Model:
    if name.startswith("next-"):
        tunables = NextTunables(name.removeprefix("next-"), enabled_sources=HINTFAULTS)  # type: ignore[arg-type]
        return SectionFlagNext(pages, tunables)
    if name.startswith("pghot"):
        return SectionFlag(pages, PghotTunables(name))  # type: ignore[arg-type]
    kinds: dict[str, type[Model]] = {
        "rfc-v1": RfcV1,
        "rfc-fixed": RfcFixed,
        "zone-flag": ZoneFlag,
        "per-folio": PerFolio,
    }
    return kinds[name](pages)


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_bulk_is_one_by_one(name: str, huge: bool) -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        state = rng.bit_generator.state
        both = []
        for bulk in (True, False):
            rng.bit_generator.state = state
            design, jiffies = made(name, machine(rng, huge=huge)), 0
            for _ in range(4):
                n = int(rng.integers(0, 60))
                pfns = FIRST_PFN + rng.integers(-2, N_PAGES + 2, n)
                nids = rng.choice([0, 1, 2, -1, 9], n).astype(np.int32)
                # Ages of seconds, so that windows pass and times wrap around.
                times = jiffies + np.sort(rng.integers(0, 9000, n))
                if bulk:
                    design.mark_many(pfns, nids, times, np.zeros(n, dtype=np.int64))
                else:
                    Model.mark_many(design, pfns, nids, times, np.zeros(n, dtype=np.int64))
                jiffies += 9000
                design.walk(2, now_jiffies=jiffies)
            design.verify()
            both.append(design)
        many, single = both
        assert +many.counters == +single.counters
        assert many.calls == single.calls
        assert many.ledger.as_dict() == single.ledger.as_dict()
        assert [many.activated(nid) for nid in range(3)] == [single.activated(nid) for nid in range(3)]
        assert [many.will_walk(span) for span in many.spans(2)] == [
            single.will_walk(span) for span in single.spans(2)
        ]
        np.testing.assert_array_equal(many.records, single.records)  # type: ignore[attr-defined]
    assert many.counters["producer_marks"] > 10


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("name", ["pghot", "pghot-compact"])
def test_reports_in_bulk_are_one_by_one_and_of_nobody_s_node(name: str, huge: bool) -> None:
    rng = np.random.default_rng(3)
    tunables = NextTunables(name, enabled_sources=HWHINTS, freq_threshold=3)  # type: ignore[arg-type]
    for _ in range(8):
        state = rng.bit_generator.state
        both = []
        for bulk in (True, False):
            rng.bit_generator.state = state
            design, jiffies = SectionFlagNext(machine(rng, huge=huge), tunables), 0
            design.hint_faults = False
            for _ in range(4):
                n = int(rng.integers(0, 60))
                pfns = FIRST_PFN + rng.integers(-2, N_PAGES + 2, n)
                counts = rng.choice([1, 2, 3, 500], n)
                times = jiffies + np.sort(rng.integers(0, 9000, n))
                if bulk:
                    guesses = np.zeros(n, dtype=np.int32)
                    design.report_many(pfns, guesses, times, np.zeros(n, dtype=np.int64), counts)
                else:
                    for pfn, count, at in zip(pfns.tolist(), counts.tolist(), times.tolist(), strict=True):
                        design.record_accesses(pfn, -1, count, at, HWHINTS)
                jiffies += 9000
                design.walk(2, now_jiffies=jiffies)
            design.verify()
            both.append(design)
        many, single = both
        assert +many.counters == +single.counters
        assert many.calls == single.calls
        assert many.ledger.as_dict() == single.ledger.as_dict()
        np.testing.assert_array_equal(many.records, single.records)
    assert many.counters["pghot_recorded_accesses"] > many.counters["pghot_recorded_hwhints"] > 10
