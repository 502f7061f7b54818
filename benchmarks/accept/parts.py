"""Sizes, time limits, and the parts of the run: each yields finished results and stops in time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accept import figures, micro, peers, streams, tools
from accept.beds import LIES, Lie, layout_of, store_bytes
from accept.correct import CheckedCase, MismatchError, check, check_filled, check_on_device
from accept.figures import USUAL_FORMAT, ScanCase, WrongAnswerError
from accept.rig import Rig
from gpuscan.base.units import format_bytes
from gpuscan.kernels.api import Backend
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.backend import WORKING_BYTES
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import STORE_FORMATS, record_format

Result = dict[str, Any]
_PLANS_OF_A_ROUND = 8
_HOST_BYTES_PER_GPU_BYTE = 1.25
"""Of the twin of a store: its arrays, and room for the plans of both."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large and how long. Pages, items and bytes; seconds by part in ``limits_s``."""

    name: str
    formats: tuple[str, ...]
    reference_pages: int
    reference_items: int
    twin_pages: int
    twin_items: int
    sizes: tuple[int, ...]
    size_items: int
    filled_pages: tuple[int, ...]
    filled_densities: tuple[float, ...]
    ceiling_bytes: int
    chain_rounds: int
    scan_pages: int
    densities: tuple[float, ...]
    n_targets: tuple[int, ...]
    skewed_densities: tuple[float, ...]
    budget_densities: tuple[float, ...]
    budget_targets: tuple[int, ...]
    by_index_densities: tuple[float, ...]
    n_requests: int
    sparse_densities: tuple[float, ...]
    plan_densities: tuple[float, ...]
    large_pages: int
    largest_pages: int
    rounds: int
    limits_s: dict[str, float]


FULL = Scale(
    name="full",
    formats=STORE_FORMATS,
    reference_pages=1 << 17,
    reference_items=1000,
    twin_pages=1 << 20,
    twin_items=50_000,
    sizes=tuple(1 << power for power in (22, 24, 26, 28, 30, 32, 33)),
    size_items=1 << 20,
    filled_pages=(1 << 20, 1 << 24, 1 << 26),
    filled_densities=(1e-4, 1e-2, 1.0),
    ceiling_bytes=1 << 32,
    chain_rounds=2000,
    scan_pages=1 << 28,
    densities=(1e-4, 1e-3, 1e-2, 1.0, 1e-6, 1e-5, 1e-1),
    n_targets=(16, 1024, 1),
    skewed_densities=(1e-5, 1e-4, 1e-3, 1e-2),
    budget_densities=(1e-4, 1e-2),
    budget_targets=(16, 1024),
    by_index_densities=(1e-5, 1e-4, 1e-3, 1e-2),
    n_requests=1 << 24,
    sparse_densities=(1e-4, 1e-5, 1e-6),
    plan_densities=(0.1, 1e-2),
    large_pages=1 << 34,
    largest_pages=1 << 40,
    rounds=10,
    limits_s={
        "correctness": 440,
        "ceilings": 10,
        "micro": 20,
        "scans": 200,
        "formats": 110,
        "skew": 100,
        "budgets": 60,
        "residency": 30,
        "requests": 60,
        "launches": 30,
        "overlap": 30,
        "large": 200,
        "sanitizers": 340,
        "ncu": 100,
    },
)
QUICK = Scale(
    name="quick",
    formats=STORE_FORMATS,
    reference_pages=1 << 16,
    reference_items=1000,
    twin_pages=1 << 20,
    twin_items=20_000,
    sizes=(1 << 24, 1 << 26),
    size_items=1 << 18,
    filled_pages=(1 << 20,),
    filled_densities=(1e-4, 1.0),
    ceiling_bytes=1 << 30,
    chain_rounds=1000,
    scan_pages=1 << 26,
    densities=(1e-4, 1e-2, 1.0),
    n_targets=(16,),
    skewed_densities=(1e-4, 1e-2),
    budget_densities=(1e-2,),
    budget_targets=(16, 1024),
    by_index_densities=(1e-4,),
    n_requests=1 << 22,
    sparse_densities=(1e-4,),
    plan_densities=(0.1,),
    large_pages=1 << 30,
    largest_pages=1 << 31,
    rounds=3,
    limits_s={
        "correctness": 40,
        "ceilings": 5,
        "micro": 5,
        "scans": 20,
        "formats": 10,
        "skew": 20,
        "budgets": 10,
        "residency": 5,
        "requests": 10,
        "launches": 5,
        "overlap": 5,
        "large": 15,
        "sanitizers": 40,
        "ncu": 20,
    },
)


class Deadline:
    """A moment after which nothing new is begun."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the seconds left, 0 at least."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Return whether it has passed."""
        return self.left_s() == 0.0


def _tried(case: str, run: Callable[[], Result]) -> Result:
    """Return what ``run`` returns, or what went wrong: one store must not cost the others."""
    try:
        return run()
    except Exception as error:  # whatever CuPy, the driver or a check raises
        return {
            "case": case,
            "error": f"{type(error).__name__}: {error}",
            "wrong": isinstance(error, (MismatchError, WrongAnswerError)),
            "traceback": traceback.format_exc().splitlines(),
        }


def _twin(n_threads: int | None = None) -> Backend:
    """Return the CPU backend, whose Numba nobody else needs here."""
    from gpuscan.kernels.cpu import CpuBackend

    return CpuBackend(n_threads)


def correctness(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield one result per checked store: small ones by the reference, all sizes by the CPU twin."""
    gpu = {exclusive: CudaBackend(rig.device, exclusive=exclusive) for exclusive in (False, True)}
    twin = _twin()
    for case, against in _checked_cases(scale, twin):
        refused = _left_out(rig, case, deadline)
        if refused is not None:
            yield {"case": case.title, "left_out": refused, "complete": False}
            continue
        yield _tried(case.title, partial(check, case, gpu[case.exclusive], against, deadline.over))
    small = CheckedCase(scale.reference_pages, "rfc", 16, False, scale.reference_items)
    title = f"{small.title}, marked and planned on the device"
    refused = _left_out(rig, small, deadline)
    if refused is None:
        run_there = partial(check_on_device, small, rig, gpu[False], ReferenceBackend())
        yield {**_tried(title, run_there), "case": title}
    else:
        yield {"case": title, "left_out": refused, "complete": False}
    for n_pages in scale.filled_pages:
        for exclusive in (False, True):
            case = CheckedCase(n_pages, "rfc", 1024, exclusive, 0)
            for density in scale.filled_densities:
                title = f"{case.title}, filled at {density:g}"
                refused = _left_out(rig, case, deadline)
                if refused is not None:
                    yield {"case": title, "left_out": refused, "complete": False}
                    continue
                run = partial(check_filled, case, density, rig, gpu[exclusive], twin)
                yield {**_tried(title, run), "case": title}


def _checked_cases(scale: Scale, twin: Backend) -> Iterator[tuple[CheckedCase, Backend]]:
    reference = ReferenceBackend()
    for exclusive in (False, True):
        for format_name in scale.formats:
            has_nid = record_format(format_name).has_nid
            small = scale.reference_pages, format_name, 16 if has_nid else 1, exclusive, scale.reference_items
            yield CheckedCase(*small), reference
            for n_targets in (1, 16, 1024) if has_nid else (1,):
                yield CheckedCase(scale.twin_pages, format_name, n_targets, exclusive, scale.twin_items), twin
        folios = CheckedCase(scale.twin_pages, "rfc", 16, exclusive, scale.twin_items, large_folios=True)
        yield folios, twin
    elsewhere = CheckedCase(scale.reference_pages, "rfc", 16, False, scale.reference_items, by_index=True)
    yield elsewhere, reference
    yield replace(elsewhere, n_pages=scale.twin_pages, n_items=scale.twin_items, large_folios=True), twin
    for index, n_pages in enumerate(scale.sizes):
        yield CheckedCase(n_pages, "rfc", 16, bool(index % 2), scale.size_items), twin


def _left_out(rig: Rig, case: CheckedCase, deadline: Deadline) -> str | None:
    """Return why a case cannot be run now, or None."""
    if deadline.over():
        return "no time was left"
    layout = layout_of(case.n_pages, case.format_name, case.n_targets, large_folios=case.large_folios)
    needed = store_bytes(layout) + WORKING_BYTES
    free = rig.device.free_bytes()
    if needed * _HOST_BYTES_PER_GPU_BYTE > free:
        return f"needs {format_bytes(needed)} on the device, {format_bytes(free)} are free"
    host = _host_free_bytes()
    if needed * _HOST_BYTES_PER_GPU_BYTE > host:
        return f"its twin needs {format_bytes(needed)} of host memory, {format_bytes(host)} are available"
    return None


def _host_free_bytes() -> int:
    meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    return int(available.split()[1]) << 10


def ceilings(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield what the device reads and copies per second."""
    if not deadline.over():
        yield figures.ceilings(rig, scale.ceiling_bytes, scale.rounds)


def scans(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield one result per filled store; peers run where claims are atomic, their answer is the same."""
    fmt = record_format("rfc")
    compared = [peers.composition(rig, fmt)]
    try:
        compared.append(peers.cub(rig, fmt))
    except Exception as error:  # of whatever library; the other figures are worth having without this peer
        yield {"left_out": f"the CUB peer does not compile: {error}"}
    yield from _measured(
        _scan_cases(scale),
        deadline,
        lambda case: figures.scan_case(rig, case, () if case.exclusive else compared, scale.rounds),
    )


def micro_part(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield what single operations take, and ways to read."""
    if not deadline.over():
        yield micro.micro_case(rig, scale.ceiling_bytes, scale.chain_rounds, scale.rounds)


def formats(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield the sweep of densities for the formats that ``scans`` leaves out."""
    cases = (
        _case_of(scale, format_name, density)
        for format_name in scale.formats
        for density in scale.densities
        if format_name != USUAL_FORMAT
    )
    yield from _measured(cases, deadline, lambda case: figures.scan_case(rig, case, (), scale.rounds))


def skew(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield scans of as many candidates that lie evenly, in one region, and half of them there."""
    cases = (
        _case_of(scale, format_name, density, lie)
        for format_name in scale.formats
        for density in scale.skewed_densities
        for lie in LIES
    )
    yield from _measured(cases, deadline, lambda case: figures.scan_case(rig, case, (), scale.rounds))


def budgets(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield rankings with the scans that spend their budgets, few targets and many."""
    cases = (
        ScanCase(scale.scan_pages, n_targets, density, False)
        for n_targets in scale.budget_targets
        for density in scale.budget_densities
    )
    yield from _measured(cases, deadline, lambda case: figures.budget_case(rig, case, scale.rounds))


def residency(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield scans by the index of records in pinned memory, beside the same in the device's."""
    cases = (ScanCase(scale.scan_pages, 16, density, False) for density in scale.by_index_densities)
    yield from _measured(cases, deadline, lambda case: figures.residency_case(rig, case, scale.rounds))


def _case_of(scale: Scale, format_name: str, density: float, lie: Lie = "uniform") -> ScanCase:
    n_targets = scale.n_targets[0] if record_format(format_name).has_nid else 1
    return ScanCase(scale.scan_pages, n_targets, density, False, format_name, lie)


def _measured(
    cases: Iterable[ScanCase], deadline: Deadline, measure: Callable[[ScanCase], Result]
) -> Iterator[Result]:
    for case in cases:
        if deadline.over():
            yield {"case": str(case), "left_out": "no time was left"}
        else:
            yield _tried(str(case), partial(measure, case))


def _scan_cases(scale: Scale) -> Iterator[ScanCase]:
    first, *others = scale.n_targets
    for exclusive in (False, True):
        for density in scale.densities:
            yield ScanCase(scale.scan_pages, first, density, exclusive)
    for n_targets in others:
        for density in scale.densities:
            yield ScanCase(scale.scan_pages, n_targets, density, False)


def requests(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield the rates of producers."""
    if not deadline.over():
        yield figures.request_case(rig, scale.scan_pages, scale.n_requests, scale.rounds)


def launches(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield what a CUDA graph would save of sparse ticks."""
    cases = (ScanCase(scale.scan_pages, 16, density, False) for density in scale.sparse_densities)
    yield from _measured(cases, deadline, lambda case: streams.launch_case(rig, case, scale.rounds))


def overlap(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield what beginning the next scan before a plan is waited for saves of a round of several plans."""
    cases = (ScanCase(scale.scan_pages, 16, density, False) for density in scale.plan_densities)
    drains = partial(streams.overlap_case, rig, n_plans=_PLANS_OF_A_ROUND, rounds=scale.rounds)
    yield from _measured(cases, deadline, drains)


def large(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield 64 TiB, and the largest store that fits, at density 1e-4."""
    cases = figures.large_cases(rig, scale.scan_pages, scale.large_pages, scale.largest_pages, 1e-4)
    yield from _measured(cases, deadline, lambda case: figures.large_case(rig, case, scale.rounds))


def sanitizers(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield what each tool of compute-sanitizer says of small stores."""
    yield from tools.sanitizers(deadline.left_s)


def ncu(rig: Rig, scale: Scale, deadline: Deadline) -> Iterator[Result]:
    """Yield the bandwidth that Nsight Compute counts for our kernels."""
    yield tools.bandwidth(deadline.left_s())


def child_check(rig: Rig, n_pages: int) -> None:
    """Run what is checked under compute-sanitizer: every operation, both claim modes, two widths of record.

    Raises:
        MismatchError: the GPU and the twin differ.
    """
    twin = _twin(1)
    for format_name, n_targets in (("rfc", 16), ("pghot-compact", 1)):
        for exclusive in (False, True):
            gpu = CudaBackend(rig.device, exclusive=exclusive)
            case = CheckedCase(n_pages, format_name, n_targets, exclusive, 2000, large_folios=not exclusive)
            check(case, gpu, twin, lambda: False)


def child_profile(rig: Rig, n_pages: int) -> None:
    """Run what Nsight Compute looks at: one dense and one indexed scan, and the read-only ceiling."""
    streams.profile_case(rig, ScanCase(n_pages, 16, 1e-3, False))


PARTS = {
    "correctness": correctness,
    "ceilings": ceilings,
    "micro": micro_part,
    "scans": scans,
    "formats": formats,
    "skew": skew,
    "budgets": budgets,
    "residency": residency,
    "requests": requests,
    "launches": launches,
    "overlap": overlap,
    "large": large,
    "sanitizers": sanitizers,
    "ncu": ncu,
}
CALLS = (
    ("correctness",),
    ("ceilings", "micro", "scans", "skew", "budgets", "residency"),
    ("formats", "requests", "launches", "overlap", "large"),
    ("sanitizers", "ncu"),
)
"""Parts that are run together, each call in less than 8 minutes."""
CALL_S = 470.0
MUST_PASS = ("correctness", "sanitizers")
"""Parts whose failure is one of correctness. The others raise :class:`WrongAnswerError`."""
