"""The cases of ``benchmarks/gpu_accept.py`` on a GPU of the catalogue, and the bars they are held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.bench.gpu.assumptions import Assumptions, reasons, varied
from gpuscan.bench.gpu.bounds import Modelled, Work, predict
from gpuscan.bench.gpu.catalogue import Gpu
from gpuscan.bench.gpu.checks import checks
from gpuscan.bench.gpu.counts import counts_of
from gpuscan.bench.gpu.layouts import Clustering, Filled, Path
from gpuscan.bench.gpu.others import budget_works, request_works
from gpuscan.bench.gpu.scans import scan_works
from gpuscan.records.formats import STORE_FORMATS, record_format
from gpuscan.records.page_map import SECTION_PAGES

DENSITIES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HOT_DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PATHS: tuple[Path, ...] = ("dense", "indexed")
_PLAN_FLAT_BYTES = 8
_N_REQUESTS = 1 << 24
_DENSE_BARS = {1e-6: 1.10, 1e-5: 1.10, 1e-4: 1.10, 1e-3: 1.10, 1e-2: 1.25}
_HOT_BAR = 1.3
_EMPTY_BAR = 2
_MOST_BYTES = 1 << 50
_NEARLY_ALL = 0.94
"""Of the published bandwidth: what triad reaches on a GH200 (gpu-stream/gh200.txt of gpu-benches)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case modelled.

    Attributes:
        what: ``dense``, ``indexed``, ``budget``, ``request`` or ``request, any order``.
        filled: the store.
        n_items: candidates or requests.
        floor_ns: of the bytes that must move, at what a plain read reaches; None where none are named.
        kernels: the launches in order.
    """

    what: str
    filled: Filled
    n_items: float
    floor_ns: float | None
    kernels: tuple[Modelled, ...]

    @property
    def ns(self) -> float:
        """All kernels, without the gaps between them."""
        return sum(kernel.ns for kernel in self.kernels)

    @property
    def longest(self) -> Modelled:
        """The kernel that takes most."""
        return max(self.kernels, key=lambda kernel: kernel.ns)

    @property
    def of_floor(self) -> float | None:
        """How many times the floor it takes."""
        return None if self.floor_ns is None else self.ns / self.floor_ns


def scan_case(gpu: Gpu, filled: Filled, path: Path, assumed: Assumptions) -> Case:
    """Model a scan that claims everything."""
    works = scan_works(counts_of(filled.format_name, gpu.architecture), filled, path, assumed)
    # Of each claim the record is written, and the plan has its flat page and its word (as gpu_accept counts).
    least = filled.n_pages * filled.fmt.n_bytes + filled.n_candidates * (
        2 * filled.fmt.n_bytes + _PLAN_FLAT_BYTES
    )
    floor_ns = least / gpu.read_bytes_per_s * 1e9
    return _case(gpu, path, filled, filled.n_candidates, floor_ns, works, assumed)


def request_case(
    gpu: Gpu, filled: Filled, assumed: Assumptions, *, ordered: bool, n_items: int = _N_REQUESTS
) -> Case:
    """Model calls that mark random pages."""
    counts = counts_of(filled.format_name, gpu.architecture)
    fmt = record_format(filled.format_name)
    works = request_works(counts, fmt, n_items, gpu.l2_bytes, assumed, ordered=ordered)
    what = "request" if ordered else "request, any order"
    return _case(gpu, what, filled, n_items, None, works, assumed)


def budget_case(gpu: Gpu, filled: Filled, assumed: Assumptions) -> Case:
    """Model a ranking, and the scan that spends its budget."""
    works = budget_works(counts_of(filled.format_name, gpu.architecture), filled, assumed)
    return _case(gpu, "budget", filled, filled.n_candidates, None, works, assumed)


def _case(
    gpu: Gpu,
    what: str,
    filled: Filled,
    n_items: float,
    floor_ns: float | None,
    works: list[Work],
    assumed: Assumptions,
) -> Case:
    return Case(what, filled, n_items, floor_ns, tuple(predict(gpu, work, assumed) for work in works))


def store(
    n_pages: int,
    format_name: str,
    density: float,
    clustering: Clustering = "uniform",
    n_targets: int = 16,
) -> Filled:
    """Return a store of the cases; where records have no target there is one."""
    n_targets = n_targets if record_format(format_name).has_nid else 1
    return Filled(n_pages, format_name, density, clustering, n_targets)


def all_cases(
    gpu: Gpu, n_pages: int, assumed: Assumptions, formats: Sequence[str] = STORE_FORMATS
) -> Iterator[Case]:
    """Yield every case on stores of one size."""
    for name in formats:
        for path in PATHS:
            for density in DENSITIES:
                yield scan_case(gpu, store(n_pages, name, density), path, assumed)
            for density in HOT_DENSITIES:
                yield scan_case(gpu, store(n_pages, name, density, "hot"), path, assumed)
    for ordered in (True, False):
        yield request_case(gpu, store(n_pages, formats[0], 0.0), assumed, ordered=ordered)
    for density in (1e-4, 1e-2):
        yield budget_case(gpu, store(n_pages, formats[0], density), assumed)


@dataclass(frozen=True, slots=True)
class Bar:
    """What is aimed at beside what the model says: at most so much."""

    what: str
    most: float
    modelled: float
    binds: str

    @property
    def is_met(self) -> bool:
        """Whether the model says so."""
        return self.modelled <= self.most


def bars(cases: Sequence[Case]) -> Iterator[Bar]:
    """Yield the bars that the cases are held to."""
    by_key = {(case.what, case.filled): case for case in cases}
    for case in cases:
        filled = case.filled
        where = f"{format_bytes(filled.n_pages * PAGE_BYTES)}, {filled.format_name}, {filled.density:g}"
        if case.what not in PATHS:
            continue
        if filled.clustering == "hot":
            even = by_key.get((case.what, store(filled.n_pages, filled.format_name, filled.density)))
            if even is not None:
                yield Bar(f"{case.what}, hot / uniform, {where}", _HOT_BAR, case.ns / even.ns, _why(case))
        elif case.what == "dense" and filled.density in _DENSE_BARS and case.floor_ns is not None:
            most = _DENSE_BARS[filled.density]
            (scan,) = (kernel for kernel in case.kernels if kernel.kernel == "scan_dense")
            yield Bar(f"scan_dense / bytes, {where}", most, scan.ns / case.floor_ns, scan.binds)
            yield Bar(f"dense, all kernels / bytes, {where}", most, case.ns / case.floor_ns, _why(case))
        elif case.what == "indexed" and filled.density == 0:
            yield Bar(f"launches of a scan that finds nothing, {where}", _EMPTY_BAR, len(case.kernels), "")


def whole_sections(n_bytes: int) -> int:
    """Return the pages of so much memory.

    Raises:
        InputError: it is not a number of whole sections that a GPU could have records of.
    """
    section_bytes = SECTION_PAGES * PAGE_BYTES
    if n_bytes % section_bytes or not section_bytes <= n_bytes <= _MOST_BYTES:
        raise InputError(
            f"--memory: {format_bytes(n_bytes)} is no multiple of {format_bytes(section_bytes)}, a section, "
            f"up to {format_bytes(_MOST_BYTES)}; write for example 1TiB"
        )
    return n_bytes // PAGE_BYTES


def _why(case: Case) -> str:
    """Return what of a case is not its longest kernel, in short, and what binds that."""
    beside = case.ns - case.longest.ns
    return f"{case.longest.kernel}: {case.longest.binds}; the others {beside / 1e3:.0f} us"


def sensitivity(gpu: Gpu, n_pages: int) -> list[dict[str, Any]]:
    """Return how many times as long cases take, for each thing that is assumed otherwise."""
    plain = dict(_sensitive(gpu, n_pages, Assumptions()))
    tried = [(name, getattr(assumed, name), gpu, assumed) for name, assumed in varied().items()]
    tried.append(("attained_share", _NEARLY_ALL, replace(gpu, attained_share=_NEARLY_ALL), Assumptions()))
    return [
        {
            "assumed": name,
            "value": value,
            "times": {case: ns / plain[case] for case, ns in _sensitive(other, n_pages, assumed)},
        }
        for name, value, other, assumed in tried
    ]


def _sensitive(gpu: Gpu, n_pages: int, assumed: Assumptions) -> Iterator[tuple[str, float]]:
    tried: tuple[tuple[Path, float], ...] = (
        ("dense", 1e-3),
        ("dense", 1e-2),
        ("dense", 1.0),
        ("indexed", 1e-4),
        ("indexed", 1e-2),
    )
    for path, density in tried:
        case = scan_case(gpu, store(n_pages, "rfc", density), path, assumed)
        yield f"{path}, {density:g}", case.ns
    yield "request", request_case(gpu, store(n_pages, "rfc", 0.0), assumed, ordered=True).ns


def document(gpu: Gpu, n_pages: int, formats: Sequence[str] = STORE_FORMATS) -> dict[str, Any]:
    """Return everything of one GPU: cases, bars, assumptions, sensitivity, checks. All times are modelled."""
    assumed = Assumptions()
    cases = list(all_cases(gpu, n_pages, assumed, formats))
    return {
        "kind": "gpu-model",
        "gpu": asdict(gpu),
        "n_pages": n_pages,
        "modelled": True,
        "assumptions": {
            name: {"value": value, "why": reasons()[name]} for name, value in asdict(assumed).items()
        },
        "cases": [_row(case) for case in cases],
        "bars": [{**asdict(bar), "is_met": bar.is_met} for bar in bars(cases)],
        "sensitivity": sensitivity(gpu, n_pages),
        "checks": [
            {**asdict(check), "error": check.error} for check in checks(counts_of("rfc", 90), assumed)
        ],
    }


def _row(case: Case) -> dict[str, Any]:
    return {
        "what": case.what,
        **asdict(case.filled),
        "n_items": case.n_items,
        "ns": case.ns,
        "of_floor": case.of_floor,
        "kernels": [asdict(kernel) for kernel in case.kernels],
    }
