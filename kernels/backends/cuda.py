"""The CUDA backend, declared; it is :mod:`gpuscan.kernels.cuda`."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from gpuscan.base.installing import install_command
from gpuscan.kernels.contract import BackendKind, Probe

if TYPE_CHECKING:
    from gpuscan.kernels.cuda import CudaBackend

_EXTRA = "cuda13"
_DRIVER_NODE = Path("/dev/nvidiactl")
_DRIVER_LIBRARY = "libcuda.so.1"


def _probe() -> Probe:
    """Neither initialises the driver nor imports CuPy, which takes a second."""
    if not _DRIVER_NODE.exists():
        return Probe(False, False, f"no NVIDIA driver: {_DRIVER_NODE} is not there")
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        says = f"the NVIDIA driver's {_DRIVER_LIBRARY} cannot be loaded; install its user-space libraries"
        return Probe(False, True, says)
    if importlib.util.find_spec("cupy") is None:
        return Probe(False, True, f"NVIDIA driver present, CuPy not installed ({install_command(_EXTRA)})")
    return Probe(True, True, "NVIDIA driver and CuPy present")


def _open(n_threads: int | None) -> CudaBackend:
    from gpuscan.kernels.cuda import CudaBackend

    return CudaBackend()


BACKEND = BackendKind(
    place_in_auto=10,
    because="there is a GPU",
    extra=_EXTRA,
    can_fail=True,
    probe=_probe,
    open=_open,
    in_short=lambda _: "",
)
