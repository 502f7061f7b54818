"""What was expected of a case, beside what is measured: gpuscan.bench.gpu, on a GPU of its catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from accept.rig import Rig
from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.cases import PATHS, Case, request_case, scan_case, store
from gpuscan.bench.gpu.catalogue import gpu_of_device


def add_modelled_scans(rig: Rig, rows: Iterable[dict[str, Any]], case: Any) -> None:
    """Put the model's figure into the rows of the paths; claims are atomic in all that is modelled."""
    gpu = gpu_of_device(rig.facts()["device"])
    if gpu is None or case.exclusive:
        return
    filled = store(case.n_pages, case.format_name, case.density, n_targets=case.n_targets)
    for row in rows:
        for path in PATHS:
            if row["name"] == path:
                _put(row, scan_case(gpu, filled, path, Assumptions()))


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
