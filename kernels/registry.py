"""Which backends there are, which one is taken, and why."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Literal

from gpuscan.base.arguments import whole
from gpuscan.base.errors import DeviceError, InputError
from gpuscan.base.installing import install_command
from gpuscan.kernels.api import Backend

Device = Literal["auto", "cpu", "reference", "cuda"]

THREADS_MAX = 8192
"""CONFIG_NR_CPUS is at most that on x86-64."""
_DRIVER_NODE = Path("/dev/nvidiactl")
_DRIVER_LIBRARY = "libcuda.so.1"
_CUDA_PRESENT = "NVIDIA driver and CuPy present"


def available_devices() -> tuple[Device, ...]:
    """Return the devices that :func:`open_backend` can open on this machine, the preferred one first."""
    try:
        _open_cuda()
    except DeviceError:
        return ("cpu", "reference")
    return ("cuda", "cpu", "reference")


def open_backend(device: Device = "auto", n_threads: int | None = None) -> tuple[Backend, str]:
    """Return a backend and one line saying which it is and why.

    Args:
        device: ``auto`` takes the fastest there is; ``cpu``, ``reference`` and ``cuda`` take
            just that, or fail.
        n_threads: threads of the CPU backend; by default one per CPU this process may use.

    Raises:
        DeviceError: ``cuda`` cannot be had.
        InputError: an unknown device, or fewer than one thread.
    """
    if n_threads is not None:
        n_threads = whole("n_threads", n_threads, 1, THREADS_MAX)
    if device == "cuda":
        return _open_cuda(), "cuda: as asked"
    if device == "reference":
        from gpuscan.kernels.reference import ReferenceBackend

        return ReferenceBackend(), "reference: as asked"
    if device not in ("auto", "cpu"):
        raise InputError(f"unknown device {device!r}; choose one of auto, cpu, reference, cuda")
    why = "as asked"
    if device == "auto":
        try:
            return _open_cuda(), "cuda: there is a GPU"
        except DeviceError as error:
            why = f"no CUDA: {error}"
    from gpuscan.kernels.cpu import CpuBackend

    return CpuBackend(n_threads), f"cpu: {why}"


def _open_cuda() -> Backend:
    # Without a driver CuPy need not be imported, which takes a second.
    probed = probe_cuda()
    if probed != _CUDA_PRESENT:
        raise DeviceError(f"{probed}; use --device cpu, or auto")
    from gpuscan.kernels.cuda import CudaBackend

    return CudaBackend()


def probe_cuda() -> str:
    """Return one line saying what a CUDA backend would find here.

    Neither initialises the driver nor imports CuPy.
    """
    if not _DRIVER_NODE.exists():
        return f"no NVIDIA driver: {_DRIVER_NODE} is not there"
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return f"the NVIDIA driver's {_DRIVER_LIBRARY} cannot be loaded; install its user-space libraries"
    if importlib.util.find_spec("cupy") is None:
        return f"NVIDIA driver present, CuPy not installed ({install_command('cuda13')})"
    return _CUDA_PRESENT
