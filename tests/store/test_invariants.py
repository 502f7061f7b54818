"""The invariants of the store, each with a check that is shown to fail when its guard is taken out.

A check is a function of an open store. It runs on every backend as it is, and on the
CPU kernels with one line of their source changed, where it must fail.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backends import backend_named
from gpuscan.kernels import cpu
from gpuscan.kernels.api import Budget, Kernels, Outcome, ReleaseOutcome, ScanRequest
from gpuscan.kernels.cpu import CpuBackend, backend, scan, staged_plan
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import unpack
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import (
    NONE,
    Filling,
    always_parallel,
    assert_indexed,
    assert_same_plan,
    assert_same_store,
    assert_sorted,
    drained,
    layout_of,
    plain_layout,
    random_store,
)

CPU = CpuBackend(2)
BACKENDS = ["reference", "cpu-2", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)]
LAYOUT = plain_layout()
Check = Callable[[Kernels], None]


@pytest.fixture(autouse=True)
def _parallel() -> Iterator[None]:
    with always_parallel():
        yield


def filled(kernels: Kernels, ready: float, seed: int = 1) -> Any:
    """Load a random store at rest, everything eligible, and return its arrays."""
    arrays = random_store(kernels.layout, Filling(ready, stale=1e-3), np.random.default_rng(seed))
    arrays.eligible_bits[:] = ~np.uint64(0)
    kernels.load(arrays)
    return arrays


def whole(path: Any = "indexed", **options: Any) -> ScanRequest:
    return ScanRequest(0, LAYOUT.n_pages, options.pop("capacity", LAYOUT.n_pages), path, **options)


# The checks


def index_after_requests(kernels: Kernels) -> None:
    """1: what a producer marked is indexed."""
    filled(kernels, 0.0)
    pfns = np.random.default_rng(2).integers(0, LAYOUT.n_pages, 500)
    kernels.request(pfns, np.full(500, 3, dtype=np.int32), NONE)
    assert_indexed(kernels)


def index_after_a_budget(kernels: Kernels) -> None:
    """1: what a scan leaves READY is indexed again."""
    filled(kernels, 1e-2)
    before = kernels.count_ready()
    budget = Budget(np.full(8, 20), np.zeros(8, dtype=np.int64), 0)
    plan = kernels.scan(whole(cuts=kernels.rank(budget, 0, LAYOUT.n_pages)))
    assert 0 < len(plan.flat) <= 160
    assert kernels.count_ready() == before - len(plan.flat)
    assert_indexed(kernels)


def claimed_once(kernels: Kernels) -> None:
    """2: two scans of the same records at the same time claim each page once."""
    for seed in range(25):  # the scans do not always meet on a busy machine
        filled(kernels, 5e-3, seed)
        ready = kernels.count_ready()
        barrier = threading.Barrier(2)
        found: list[Any] = []

        def claim(barrier: threading.Barrier = barrier, found: list[Any] = found) -> None:
            barrier.wait()
            found.append(kernels.scan(whole("dense")).flat)

        threads = [threading.Thread(target=claim) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        flats = np.concatenate(found)
        assert len(np.unique(flats)) == len(flats) == ready


def newest_word(kernels: Kernels) -> None:
    """2: a claim takes the word that was there, and leaves 0."""
    arrays = filled(kernels, 1e-3)
    plan = kernels.scan(whole())
    np.testing.assert_array_equal(plan.words, arrays.records[plan.flat])
    assert not kernels.dump().records[plan.flat].any()


def conservation(kernels: Kernels) -> None:
    """3: requests begun = pending + claimed - put back + superseded + discarded."""
    filled(kernels, 0.0)
    rng = np.random.default_rng(3)
    pfns = rng.integers(0, 4000, 3000)
    nids = rng.integers(3, 5, 3000, dtype=np.int32)  # some are asked for again, with this target or the other
    begun = int(kernels.request(pfns, nids, NONE)[Outcome.ACCEPTED])
    plan = kernels.scan(whole())
    begun += int(kernels.request(pfns[:500], np.full(500, 4, dtype=np.int32), NONE)[Outcome.ACCEPTED])
    ended = kernels.discard(np.arange(100))
    released = kernels.release(plan.flat, plan.words, NONE)
    assert released[ReleaseOutcome.SUPERSEDED] > 0
    in_flight = len(plan.flat) - int(released[ReleaseOutcome.RESTORED])
    assert begun == kernels.count_ready() + in_flight + ended
    targets = unpack(LAYOUT.fmt, kernels.dump().records[np.setdiff1d(pfns[:500], np.arange(100))]).nid
    assert (targets == 4).all(), "an old request replaced a newer one"


def pure_plan(kernels: Kernels) -> None:
    """4: a plan of a store at rest is what the reference makes of it: sorted, whatever the path."""
    arrays = filled(kernels, 1e-2)
    reference = ReferenceBackend().open(LAYOUT)
    reference.load(arrays)
    expected = reference.scan(whole())
    for path in ("dense", "indexed"):
        kernels.load(arrays)
        plan = kernels.scan(whole(path))
        assert_sorted(plan)
        assert_same_plan(plan, expected)
        assert_same_store(kernels, reference)


def bounded_plans(kernels: Kernels) -> None:
    """5: plans within the capacity, each of one stretch, that add up to all there is."""
    for path in ("dense", "indexed"):
        arrays = filled(kernels, 0.2)

        def request(cursor: int | None, path: Any = path) -> ScanRequest:
            return ScanRequest(512 if cursor is None else cursor, LAYOUT.n_pages, 3000, path)

        found = drained(kernels, request)
        ready = np.flatnonzero(unpack(LAYOUT.fmt, arrays.records).ready)
        assert sorted(found) == ready[ready >= 512].tolist()


def large_plan(kernels: Kernels) -> None:
    """5: a plan larger than a staging buffer covers its range, although buffers end inside sections."""
    arrays = filled(kernels, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "PARALLEL_FROM_BLOCKS", 1 << 30)  # one piece
        plan = kernels.scan(ScanRequest(512, LAYOUT.n_pages, LAYOUT.n_pages, "indexed"))
    assert len(plan.flat) == int(unpack(LAYOUT.fmt, arrays.records[512:]).ready.sum())
    assert plan.cursor == LAYOUT.n_pages


def far_pages(kernels: Kernels) -> None:
    """6: page indexes do not stop at 32 bits."""
    n_pages = kernels.layout.n_pages
    assert n_pages > 1 << 32
    kernels.set_eligible(np.array([n_pages - 1]), eligible=True)
    kernels.request(np.array([n_pages - 1]), np.zeros(1, dtype=np.int32), NONE)
    plan = kernels.scan(ScanRequest(0, n_pages, 512, "indexed"))
    assert plan.flat.tolist() == [n_pages - 1]


CHECKS: list[Check] = [
    index_after_requests,
    index_after_a_budget,
    claimed_once,
    newest_word,
    conservation,
    pure_plan,
    bounded_plans,
    large_plan,
]


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("check", CHECKS)
def test_invariant(check: Check, device: str) -> None:
    check(backend_named(device).open(LAYOUT))


def far_layout() -> Any:
    return layout_of([Extent(0, (1 << 32) + SECTION_PAGES, 1, 0)], "pghot-compact")


def test_far_pages() -> None:
    far_pages(CPU.open(far_layout()))


# The guards, taken out one at a time: module, line, what stands there instead

FAULTS = {
    "request does not index": (
        index_after_requests,
        "marks",
        "                bits |= 1 << (head & 63)\n",
        "                bits |= 0\n",
    ),
    "a budget's leftovers are not indexed": (
        index_after_a_budget,
        "claim",
        "            set_index(store, flat)\n",
        "            pass\n",
    ),
    "a claim in two steps": (
        claimed_once,
        "claim",
        "        seen = atomic_compare_exchange(store.records, flat, word, 0)\n"
        "        if seen == word:\n"
        "            return word\n",
        "        for _ in range(30000):\n"
        "            atomic_load(store.records, flat)\n"
        "        atomic_compare_exchange(store.records, flat, atomic_load(store.records, flat), 0)\n"
        "        seen = word\n"
        "        if seen == word:\n"
        "            return word\n",
    ),
    "a refreshed request counted as begun": (
        conservation,
        "request",
        "    return _REFRESHED if word & fields.ready != 0 else _ACCEPTED\n",
        "    return _ACCEPTED\n",
    ),
    "a repeated request counted as begun": (
        conservation,
        "request",
        "            return _REFRESHED  # READY with this target already: there is nothing to write\n",
        "            return _ACCEPTED\n",
    ),
    "release replaces a newer request": (
        conservation,
        "release",
        "    while word & store.fields.ready == 0:\n",
        "    while True:\n",
    ),
    "a plan that is not in the order of its pages": (
        pure_plan,
        "unpack",
        "        claim = plain_load(claims, first + index)\n",
        "        claim = plain_load(claims, first + begin + end - 1 - index)\n",
    ),
    "blocks not come to are forgotten": (
        large_plan,
        "scan_indexed",
        "            atomic_or(store.block_bits, section, pending)",
        "            pass",
    ),
    "a 32-bit page index": (
        far_pages,
        "scan_indexed",
        "                gathered[slot, 0] = word_index << 6\n",
        "                gathered[slot, 0] = (word_index << 6) & 0xFFFFFFFF\n",
    ),
}
USERS = {
    "claim": ("scan_indexed", "scan_dense", "scan_sparse"),
    "marks": ("request", "record"),
    "unpack": ("scan_sparse",),
}
"""Kernels that have a module's functions compiled into them."""


def source_of(module: str) -> str:
    return (Path(cpu.__file__).parent / f"{module}.py").read_text()


@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_line_to_take_out_is_there(fault: str) -> None:
    """The kernels change more often than the slow suite runs."""
    _, name, line, _ = FAULTS[fault]
    assert source_of(name).count(line) == 1


def sabotaged(folder: Path, name: str, line: str, instead: str) -> dict[str, ModuleType]:
    """Return kernel modules made from the source, with a line replaced."""
    names = (name, *USERS.get(name, ()))
    modules = {}
    for each in names:
        source = source_of(each)
        if each == name:
            source = source.replace(line, instead)
        for other in names:
            source = source.replace(
                f"from gpuscan.kernels.cpu.{other} import", f"from sabotaged_{other} import"
            )
        path = folder / f"sabotaged_{each}.py"
        path.write_text(source)
    for each in names:
        spec = importlib.util.spec_from_file_location(f"sabotaged_{each}", folder / f"sabotaged_{each}.py")
        assert spec is not None
        assert spec.loader is not None
        modules[each] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[each])
    return modules


@pytest.mark.slow  # each compiles kernels anew
@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_check_sees(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, name, line, instead = FAULTS[fault]
    for each, module in sabotaged(tmp_path, name, line, instead).items():
        for driver in (scan, backend, staged_plan):
            if hasattr(driver, each):
                monkeypatch.setattr(driver, each, getattr(module, each))
    with pytest.raises(AssertionError):
        check(CPU.open(far_layout() if check is far_pages else LAYOUT))


# What the driver guards: trimming and putting back


def over_capacity(kernels: Kernels) -> None:
    """5: candidates that nobody counted (producers added them meanwhile) do not get into the plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan.Scan, "_cut_to_capacity", lambda _self, pieces: pieces)
        patch.setattr(scan.Scan, "_is_full", lambda _self: False)
        bounded_plans(kernels)
        filled(kernels, 0.2)
        before = kernels.count_ready()
        plan = kernels.scan(whole(capacity=3000))
        assert before == kernels.count_ready() + len(plan.flat)
        assert_indexed(kernels)


def misleading_sample(kernels: Kernels) -> None:
    """4: a plan does not depend on what a sample of the candidates said; too low a guess is undone."""
    for path in ("dense", "indexed"):
        arrays = filled(kernels, 0.2)
        reference = ReferenceBackend().open(LAYOUT)
        reference.load(arrays)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan.Scan, "_sampled_candidates", lambda _self: 0.0)
            assert_same_plan(kernels.scan(whole(path, capacity=3000)), reference.scan(whole(capacity=3000)))
        np.testing.assert_array_equal(kernels.dump().records, reference.dump().records)
        assert_indexed(kernels)


def put_back_on_error(kernels: Kernels) -> None:
    """2 and 3: a scan that fails between claims and plan leaves records, index and budget as they were."""
    for error in (RuntimeError, KeyboardInterrupt):
        for path in ("dense", "indexed"):
            arrays = filled(kernels, 1e-2)
            budget = Budget(np.array([-1, 0, 20, 20, 20, 700, 700, -1]), np.full(8, 70_000), 0)
            cuts = kernels.rank(budget, 0, LAYOUT.n_pages)
            quotas = [cuts.above_pages.copy(), cuts.tie_pages_from.copy(), cuts.tie_pages_below.copy()]

            def fail(_self: Any, _cursor: int, error: type[BaseException] = error) -> None:
                raise error("on purpose")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(scan.Scan, "_plan", fail)
                with pytest.raises(error, match="on purpose"):
                    kernels.scan(whole(path, cuts=cuts))
            np.testing.assert_array_equal(kernels.dump().records, arrays.records)
            assert_indexed(kernels)
            np.testing.assert_array_equal(cuts.above_pages, quotas[0])
            # A tie quota that met a folio it could not pay for stays spent: less, never more.
            assert (cuts.tie_pages_from <= quotas[1]).all()
            assert (cuts.tie_pages_below <= quotas[2]).all()


def put_back_on_a_worker_error(kernels: Kernels) -> None:
    """As above, when one of several threads fails while the others claim."""
    arrays = filled(kernels, 1e-2)
    calls = iter(range(10**6))
    works = vars(scan)["scan_indexed"]  # also of a copy with a fault

    class Fails:
        def for_bits(self, bits: int) -> Callable[..., Any]:
            if next(calls) == 2:
                raise MemoryError("on purpose")
            return works.for_bits(bits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "scan_indexed", Fails())
        with pytest.raises(MemoryError, match="on purpose"):
            kernels.scan(whole())
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    assert_indexed(kernels)


@pytest.mark.parametrize(
    "check", [over_capacity, misleading_sample, put_back_on_error, put_back_on_a_worker_error]
)
def test_driver(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(CPU.open(LAYOUT))
    monkeypatch.setattr(scan.Scan, "_undo", lambda _self, _piece, _from_flat: None)
    with pytest.raises(AssertionError):
        check(CPU.open(LAYOUT))
