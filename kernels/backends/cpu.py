"""The CPU backend, declared; it is :mod:`gpuscan.kernels.cpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.kernels.contract import BackendKind, Probe

if TYPE_CHECKING:
    from gpuscan.kernels.cpu import CpuBackend


def _open(n_threads: int | None) -> CpuBackend:
    from gpuscan.kernels.cpu import CpuBackend

    return CpuBackend(n_threads)


def _in_short(backend: CpuBackend) -> str:
    n_threads = backend.workers.n_threads
    return f"{n_threads:,} thread{'s' * (n_threads > 1)}"


BACKEND = BackendKind(
    place_in_auto=20,
    because="there is nothing faster",
    extra="",
    can_fail=False,
    probe=lambda: Probe(usable=True, is_there=True, says=""),
    open=_open,
    in_short=_in_short,
)
