"""What scans of designs are priced at: from which steps, of how much of a machine."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.compare import cost_rounds
from gpuscan.compare.cost_model import CostModel, measure_model, step_document
from gpuscan.compare.open_loop import OpenResult
from gpuscan.compare.steps import ready_pages
from gpuscan.compare.steps.scans import SCAN_STEPS
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.records.page_map import SECTION_PAGES
from small_steps import cost_model, small_steps, step_model

TIB_PAGES = 1 << 28
WALKS = ("page", "candidate")


def made() -> CostModel:
    return cost_model(
        step_model("walk", ("page",), 100.0, 2.0),
        step_model("section walk", WALKS, 10.0, 3.0, 5.0),
        step_model("section check", ("section",), 20.0, 1.5),
        step_model("list entry", ("candidate",), 100.0, 50.0),
        step_model("gpuscan, few blocks", ("marked section", "candidate"), 9000.0, 200.0, 20.0),
        step_model("gpuscan", ("section", "marked section", "candidate"), 20_000.0, 2.0, 200.0, 20.0),
        wake_ns=1000.0,
    )


def test_a_scan_is_the_sum_of_what_its_design_declares() -> None:
    model = made()
    assert model.scan_of("rfc-v1", 1000, 1e-3).ns == pytest.approx(100 + 2 * 1000)
    assert model.scan_of("percpu-list", 1_000_000, 1e-3).ns == pytest.approx(100 + 50 * 1000)
    assert model.scan_of("hot-list", 1_000_000).why_not == "not measured: see hot-list in designs.md"
    n_pages = 64 * SECTION_PAGES
    dense = model.scan_of("section-flag", n_pages, 1e-2)  # every section is hot
    assert dense.ns == pytest.approx(20 + 1.5 * 64 + 10 + 3 * n_pages + 5 * n_pages * 1e-2, rel=1e-6)
    sparse = model.scan_of("section-flag", n_pages, 1e-12)
    assert sparse.ns == pytest.approx(20 + 1.5 * 64 + 10, rel=0.01)


def test_64_times_the_candidates_cost_gpuscan_64_times_what_they_do() -> None:
    model = made()
    one, many = (model.scan_of("gpuscan", n * TIB_PAGES) for n in (1, 64))
    assert many.ns - 20_000 == pytest.approx(64 * (one.ns - 20_000))
    few = model.scan_of("gpuscan", TIB_PAGES // 64)
    assert few.ns == pytest.approx(9000 + 200 * 36.5 + 20 * 41.9, rel=0.03)


def test_what_the_threads_took_has_looks_finds_sections_and_wakes() -> None:
    model, found = made(), np.ones(10, dtype=np.int64)
    walks = OpenResult("rfc-v1", delays_ns=found, scan_ns=5000.0, n_scans=2, n_threads=2, interval_ns=500)
    walks.end_ns = 30_000.0  # 3,000 ns a period: 10 wakes of each of two threads
    assert model.spent_ns("rfc-v1", TIB_PAGES, walks) == pytest.approx(5000 + 20 * 1000)
    flagged = OpenResult("section-flag", delays_ns=found, scan_ns=5000.0, n_scans=2, n_sections_asked=64)
    spent_ns = model.spent_ns("section-flag", TIB_PAGES, flagged)
    per_section = model.steps["section check"].look_ns
    assert spent_ns == pytest.approx(5000 + 10 * 5 + 64 * per_section + 2 * 1000)
    ours = OpenResult("gpuscan", delays_ns=found, scan_ns=1.0, n_scans=5, n_marked_sections=5)
    assert model.spent_ns("gpuscan", TIB_PAGES, ours) == pytest.approx(5 * (9000 + 200 + 2 * 20 + 1000))


@pytest.fixture(scope="module")
def measured() -> CostModel:
    with small_steps():
        return measure_model(lambda _: None)


def test_every_step_is_measured_at_three_sizes_or_more_and_its_document_says_at_which(
    measured: CostModel,
) -> None:
    assert measured.wake_ns > 0
    for name in ("walk", "section walk", "section check", "list entry", "gpuscan, few blocks"):
        document = step_document(measured.steps[name])
        assert len(document["sizes"]) >= 3, name
        assert document["sizes"] == sorted({point["size"]["n_pages"] for point in document["points"]})
        assert document["off"].keys() == {str(size) for size in document["sizes"]}
        assert document["each_ns"] > 0
        assert document["terms_ns"].keys() == set(SCAN_STEPS[name].terms)
    # Nothing of 16 GiB has more than a few blocks at that density, so there is nothing to model it by.
    assert measured.steps["gpuscan"].why_not == "no model: too little memory"
    assert measured.scan_of("gpuscan", 64 * TIB_PAGES).why_not == "no model: too little memory"


def test_what_was_measured_as_a_whole_is_told_beside_the_model(measured: CostModel) -> None:
    assert [n >> 20 for n, _ in measured.measured_scans("rfc-v1")] == [256, 512, 1024, 1536, 2048]
    assert measured.measured_scans("section-flag") == []  # two steps
    assert len({n for n, _ in measured.measured_scans("gpuscan")}) == 6
    assert measured.measured_scans("hot-list") == []


def test_points_fit_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = 1 << 28
    for name, step in SCAN_STEPS.items():
        most = max((layout.n_pages for layout in step.points(n_bytes)), default=0)
        if name != "section check":
            assert most * 4 <= n_bytes, name
    assert SCAN_STEPS["walk"].points(1 << 20) == ()
    monkeypatch.setattr(cost_rounds, "available_bytes", lambda: 0)
    assert cost_rounds.measure(SCAN_STEPS["walk"]) == ()


def test_the_model_s_densities_lie_where_they_say() -> None:
    size = ready_pages.anywhere(TIB_PAGES, 1e-5).size
    assert size.n_candidates == 2684
    assert size.n_marked_sections == pytest.approx(8192 * (1 - np.exp(-2684 / 8192)), rel=0.05)
    blocks = ready_pages.in_blocks(TIB_PAGES, 1e-5, 8).size
    assert (blocks.n_marked_blocks, blocks.n_candidates) == (2684, 8 * 2684)


def test_declared_steps_are_there() -> None:
    model = made()
    for name in DESIGNS.names:
        model.scan_of(name, TIB_PAGES)
