"""The definition of all kernels as a backend, declared; it is :mod:`gpuscan.kernels.reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.kernels.contract import BackendKind, Probe

if TYPE_CHECKING:
    from gpuscan.kernels.reference import ReferenceBackend


def _open(n_threads: int | None) -> ReferenceBackend:
    from gpuscan.kernels.reference import ReferenceBackend

    return ReferenceBackend()


BACKEND = BackendKind(
    place_in_auto=None,
    because="",
    extra="",
    can_fail=False,
    probe=lambda: Probe(usable=True, is_there=True, says=""),
    open=_open,
    in_short=lambda _: "",
)
