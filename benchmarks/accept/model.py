"""What was expected of a case, beside what is measured: gpuscan.bench.gpu, on a GPU of its catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from accept.rig import Rig
from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.cases import PATHS, Case, budget_case, request_case, scan_case, store
from gpuscan.bench.gpu.catalogue import Gpu, gpu_of_device
from gpuscan.bench.gpu.layouts import Clustering


def add_modelled_scans(rig: Rig, rows: Iterable[dict[str, Any]], case: Any) -> None:
    """Put the model's figure into the rows of the paths; claims are atomic in all that is modelled."""
    gpu = _gpu_of(rig, case)
    if gpu is None:
        return
    filled = store(case.n_pages, case.format_name, case.density, case.lie, n_targets=case.n_targets)
    for row in rows:
        for path in PATHS:
            if row["name"] == path:
                _put(row, scan_case(gpu, filled, path, Assumptions()))


def add_modelled_budgets(rig: Rig, rows: Iterable[dict[str, Any]], case: Any) -> None:
    """Put the model's figure into the row of a budget that cuts no ties, which is what is modelled."""
    gpu = _gpu_of(rig, case)
    if gpu is None:
        return
    filled = store(case.n_pages, case.format_name, case.density, case.lie, n_targets=case.n_targets)
    for row in rows:
        if row["name"] == "all fits":
            _put(row, budget_case(gpu, filled, Assumptions()))


def add_modelled_micro(rig: Rig, rows: Iterable[dict[str, Any]]) -> None:
    """Put what the model assumes of one operation, or of a plain read, into the rows it says something of."""
    gpu = gpu_of_device(rig.facts()["device"])
    if gpu is None:
        return
    assumed = Assumptions()
    waits = {"fence after a store": assumed.fence_waits, "compare-exchange": assumed.exchange_waits}
    waits["fence after an exchange"] = assumed.fence_waits + assumed.exchange_waits
    for row in rows:
        if "bytes" in row:
            row["modelled_ns"] = row["bytes"] / gpu.read_bytes_per_s * 1e9
        elif "n_exchanges" in row:
            row["modelled_ns"] = row["n_exchanges"] * assumed.exchange_bytes / gpu.l2_bytes_per_s * 1e9
        elif row["n_warps"] == 1:
            cycles = waits.get(row["name"].partition(",")[0], 0.0) * gpu.l2_cycles
            cycles = cycles or assumed.cycles_per_instruction
            row["modelled_ns"] = row["n_rounds"] * cycles / gpu.clock_hz * 1e9


def _gpu_of(rig: Rig, case: Any) -> Gpu | None:
    """Return the GPU of the catalogue, if the model has the case."""
    is_modelled = not case.exclusive and case.lie in get_args(Clustering)
    return gpu_of_device(rig.facts()["device"]) if is_modelled else None


def add_modelled_requests(rig: Rig, rows: Iterable[dict[str, Any]], n_pages: int, n_items: int) -> None:
    """Put the model's figure into the rows of ``request``."""
    gpu = gpu_of_device(rig.facts()["device"])
    if gpu is None:
        return
    for row in rows:
        if row["name"].startswith("request"):
            ordered = row["name"].endswith("call order")
            filled = store(n_pages, "rfc", 0.0)
            _put(row, request_case(gpu, filled, Assumptions(), ordered=ordered, n_items=n_items))


def _put(row: dict[str, Any], case: Case) -> None:
    row["modelled_ns"] = case.ns
    row["modelled_by_kernel_ns"] = {kernel.kernel: kernel.ns for kernel in case.kernels}
