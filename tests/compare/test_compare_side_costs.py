"""What marks and walks are timed on: that every timed mark does the whole work, and touches what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuscan.compare import side_costs
from gpuscan.compare.steps import loops as steps
from gpuscan.compare.steps.look_up import mark_step_of
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.kernels.api import Outcome

N_PAGES, N_MARKS = 1 << 19, 1 << 12


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_costs, "N_PAGES", N_PAGES)
    monkeypatch.setattr(side_costs, "_N_MARKS", N_MARKS)
    monkeypatch.setattr(side_costs, "_VICTIM_BYTES", 1 << 16)
    monkeypatch.setattr(side_costs, "n_cpus", lambda: 2)


def rounds_of(
    design: str, monkeypatch: pytest.MonkeyPatch, seen: Callable[[object], object] = lambda marked: marked
) -> list[Any]:
    """Return what ``seen`` makes of the outcomes of each round's marks."""
    found: list[Any] = []

    def marks_ns(mark: Callable[[int], object], n_threads: int) -> float:
        found.append([seen(mark(number)) for number in range(n_threads)])
        return 1.0

    monkeypatch.setattr(side_costs, "_marks_ns", marks_ns)
    costs = side_costs.producer_costs((design,), lambda _: None)
    assert costs == {design: side_costs.ProducerCost(1.0, 1.0, 1.0)}
    step = mark_step_of(DESIGNS.get(design))
    assert step, f"{design} has no mark that can be timed"
    n_single = 1 + side_costs._ROUNDS if step.open_single else 0
    assert len(found) == 1 + 2 * side_costs._ROUNDS + n_single
    return found


def test_every_timed_mark_of_gpuscan_is_of_a_page_that_was_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    for counts in rounds_of("gpuscan", monkeypatch):
        assert [int(one[Outcome.ACCEPTED]) for one in counts] == [N_MARKS] * len(counts)


def test_every_second_timed_mark_of_pghot_makes_a_page_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[np.ndarray] = []
    written = steps.written

    def kept(n: int, dtype: Any = np.int64) -> np.ndarray:
        made.append(written(n, dtype))
        return made[-1]

    monkeypatch.setattr(steps, "written", kept)

    def n_ready(_: object) -> int:
        (records,) = (one for one in made if one.dtype == np.uint8)
        return int(np.count_nonzero(records & steps.RECORD_READY))

    for ready in rounds_of("section-flag", monkeypatch, n_ready):
        assert ready == [N_MARKS // 2, N_MARKS][: len(ready)]


def test_every_timed_mark_of_kmigrated_is_of_a_page_that_was_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[np.ndarray] = []
    written = steps.written

    def kept(n: int, dtype: Any = np.int64) -> np.ndarray:
        made.append(written(n, dtype))
        return made[-1]

    monkeypatch.setattr(steps, "written", kept)
    for design in ("rfc-v1", "per-folio", "zone-flag"):
        made.clear()

        def n_ready(_: object) -> int:
            (exts,) = (one for one in made if len(one) == N_PAGES)
            return int(np.count_nonzero(exts & steps.READY))

        with monkeypatch.context() as patched:
            for ready in rounds_of(design, patched, n_ready):
                assert ready == [N_MARKS, 2 * N_MARKS][: len(ready)]


def test_producers_set_the_flag_of_the_node_that_struct_page_names() -> None:
    n, node, zone_word = 64, 3, 8
    pages = steps.struct_pages(n)
    pages[:, 0] |= node << steps.NODE_SHIFT
    pfns = np.arange(n)

    def flags_after(mark: Callable[[np.ndarray], object]) -> list[int]:
        flags = steps.written(16)
        mark(flags)
        return np.flatnonzero(flags).tolist()

    exts, records, hot = steps.written(n), steps.written(n, np.uint8), steps.written(2)
    two = steps.mark_two_atomics.for_bits(64)
    assert flags_after(lambda flags: two(pfns, pages, exts, flags, 0)) == [node]
    assert flags_after(lambda flags: two(pfns, pages, exts, flags, zone_word)) == [node, zone_word + node]
    assert flags_after(lambda flags: steps.mark_head.for_bits(64)(pfns, pages, exts, flags)) == [node]
    record = steps.mark_record.for_bits(8)
    assert flags_after(lambda flags: record(pfns, pages, records, hot, flags)) == []
    assert flags_after(lambda flags: record(pfns, pages, records, hot, flags)) == [node]
    entries = np.zeros((n, 2), dtype=np.int64)
    assert flags_after(lambda flags: steps.append.for_bits(64)(pfns, pages, entries, flags)) == [node]
    assert entries[:, 0].tolist() == pfns.tolist()
