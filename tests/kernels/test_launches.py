"""What drivers hand to CUDA kernels is what these take: name by name, type by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from cuda_signatures import Parameter, declared
from emulated import EmulatedDevice
from gpuscan.kernels.api import Budget, RecordParams, ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.launches import (
    ARRAY_TYPES,
    NODE_FLAG_WORDS,
    NUMBER_TYPES,
    PARAMETERS,
    Launch,
)
from gpuscan.kernels.cuda.source import kernel_source
from gpuscan.kernels.signatures import ARRAYS, CUTOFFS, NODE_FLAGS, NODE_MASK, OPERATIONS
from gpuscan.records.formats import STORE_FORMATS, record_format
from gpuscan.records.page_map import SECTION_PAGES, Extent
from stores import NONE, layout_of

DECLARED = declared(kernel_source(record_format("rfc"), exclusive=False))
LAYOUT = layout_of(
    [Extent(0, SECTION_PAGES, 0, 0), Extent(SECTION_PAGES, 2 * SECTION_PAGES, 1, 1)], large_folios=True
)
KERNELS_OF = {
    name: (name,) for name in ("request", "record", "release", "discard", "set_eligible", "set_order")
} | {
    "count_keys": ("rank", "cut_keys", "rank_ties"),
    "cut": ("rank_ties", "cut_ties"),
    "scan": ("scan_dense_budget",),
}
"""The kernels that do each operation."""
NOT_PASSED = {
    "scan": {
        "chunk_edges": "``edges``, cut to the range",
        "seen_pages": "is told the caller of a ranking",
    }
}
"""What the contract has of an operation and its kernels are not given, with why."""
NOWHERE = {"chunk_edges"}
"""What no kernel is given."""


def expected(name: str) -> Parameter:
    """Return a parameter as the table has it."""
    if name in NUMBER_TYPES:
        return Parameter(name, np.dtype(NUMBER_TYPES[name]).name, False)
    if name in NODE_FLAG_WORDS:
        return Parameter(name, "uint32", True)
    return Parameter(name, ARRAY_TYPES[name].replace("record", "uint32"), True)


def mismatches(table: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the kernels whose signature is not what a table says."""
    assert set(table) == set(DECLARED)
    return [kernel for kernel in table if tuple(map(expected, table[kernel])) != DECLARED[kernel]]


def test_the_table_is_what_the_sources_say() -> None:
    assert mismatches(PARAMETERS) == []
    used = {name for names in PARAMETERS.values() for name in names}
    assert used == (set(ARRAY_TYPES) | set(NUMBER_TYPES)) - NOWHERE


@pytest.mark.parametrize("kernel", PARAMETERS)
def test_two_swapped_parameters_show(kernel: str) -> None:
    names = PARAMETERS[kernel]
    for place in range(len(names) - 1):
        swapped = (*names[:place], names[place + 1], names[place], *names[place + 2 :])
        assert mismatches({**PARAMETERS, kernel: swapped}) == [kernel]


def test_a_name_is_of_one_type_in_all_kernels_and_formats() -> None:
    for name in STORE_FORMATS:
        fmt = record_format(name)
        for parameters in declared(kernel_source(fmt, exclusive=True)).values():
            for parameter in parameters:
                wanted = expected(parameter.name)
                is_record = ARRAY_TYPES.get(parameter.name) == "record"
                assert parameter.dtype == (fmt.dtype.name if is_record else wanted.dtype), parameter.name
                assert parameter.is_array == wanted.is_array, parameter.name


@pytest.mark.parametrize("operation", sorted(KERNELS_OF))
def test_a_kernel_takes_the_arrays_of_its_operation(operation: str) -> None:
    specs = [*OPERATIONS[operation], *(CUTOFFS if operation == "scan" else ())]
    names = {name for kernel in KERNELS_OF[operation] for name in PARAMETERS[kernel]}
    for spec in specs:
        assert (spec.name in names) != (spec.name in NOT_PASSED.get(operation, {})), spec.name


def test_every_operation_is_of_a_kernel_or_moves_arrays() -> None:
    assert {*OPERATIONS} - {*KERNELS_OF} == {"load"}
    contract = {spec.name for specs in OPERATIONS.values() for spec in specs}
    contract |= {spec.name for spec in (*ARRAYS, *CUTOFFS, NODE_FLAGS, NODE_MASK)}
    assert NOWHERE < contract < set(ARRAY_TYPES)


def test_what_is_missing_or_not_asked_for_is_refused() -> None:
    launch = Launch("discard", {"records": "R"})
    given = {"flats": "F", "n_items": 3, "n_ready": "N"}
    assert launch.arguments(given) == ("R", "F", 3, "N")
    assert type(launch.arguments(given)[2]) is np.int64
    with pytest.raises(TypeError, match="discard lacks n_items"):
        launch.arguments({"flats": "F", "n_ready": "N"})
    for more in ("nids", "records"):  # the second is the store's
        with pytest.raises(TypeError, match=f"was given {more}, which it does not take"):
            launch.arguments({**given, more: "?"})
    assert launch.arguments(given)[0] == "R", "what was given once stays"


class Watched(EmulatedDevice):
    """A device that notes which kernels were launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: set[str] = set()

    def compile(self, source: str) -> Callable[[str], Kernel]:
        find = super().compile(source)

        def find_noted(name: str) -> Kernel:
            self.launched.add(name)
            return find(name)

        return find_noted


def test_every_kernel_is_launched_with_arrays_of_its_types() -> None:
    """The emulated device holds the types of each launch against the signature (tests/emulated.py)."""
    device = Watched()
    kernels = CudaBackend(device).open(LAYOUT)
    n_pages = kernels.layout.n_pages
    flats = np.arange(0, n_pages, 512)
    kernels.set_order(flats, 0)
    kernels.set_eligible(flats, True)
    pfns = kernels.layout.page_map.pfn_of_flat(flats)
    nids = np.zeros(len(flats), dtype=np.int32)
    kernels.request(pfns, nids, NONE)
    kernels.record(pfns, nids, RecordParams(9, 9, 1), np.zeros(len(pfns), dtype=np.uint8))
    limits = np.full(kernels.layout.n_targets, 5)
    for path in ("dense", "indexed"):
        for is_limited in (False, True):
            budget = Budget(limits, np.zeros_like(limits), 0)
            cuts = kernels.rank(budget, 0, n_pages) if is_limited else None
            plan = kernels.scan(ScanRequest(0, n_pages, n_pages, path, None, cuts))
            kernels.release(plan.flat, plan.words, NONE)
    cuts = kernels.rank(Budget(limits, np.zeros_like(limits), 0), 0, n_pages)
    kernels.scan(ScanRequest(0, n_pages, 1, "indexed", None, cuts))  # of more candidates than the plan holds
    kernels.scan_on_device(ScanRequest(0, n_pages, n_pages, "dense"))
    kernels.count_ready()
    kernels.count_index()
    kernels.take_active()
    kernels.discard(flats)
    many = np.arange(1000)  # of a plan that is fetched beside the next scan
    kernels.set_eligible(many, True)
    kernels.request(kernels.layout.page_map.pfn_of_flat(many), np.ones(1000, dtype=np.int32), NONE)
    device.fetch_beside = _broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no copy"):
        kernels.scan(ScanRequest(0, n_pages, n_pages))
    kernels.close()
    CudaBackend(device).open_index(LAYOUT, None).count_ready()
    assert device.launched == set(PARAMETERS)


def _broken(copies: Any) -> Callable[[], None]:
    raise RuntimeError("no copy")
