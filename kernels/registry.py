"""Which backend is taken, and why."""

from __future__ import annotations

from gpuscan.base.arguments import whole
from gpuscan.base.errors import DeviceError, InputError
from gpuscan.kernels.api import Backend
from gpuscan.kernels.catalogue import AUTO, BACKENDS, device_names
from gpuscan.kernels.contract import BackendKind

Device = str
"""The name of a backend, or ``auto``."""

THREADS_MAX = 8192
"""CONFIG_NR_CPUS is at most that on x86-64."""


def available_devices() -> tuple[Device, ...]:
    """Return the devices that :func:`open_backend` can open on this machine, the preferred one first."""
    return tuple(name for name, kind in _in_order().items() if _can_be_opened(name, kind))


def open_backend(device: Device = AUTO, n_threads: int | None = None) -> tuple[Backend, str]:
    """Return a backend and one line saying which it is and why.

    Args:
        device: ``auto`` takes the fastest there is; the name of a backend takes just that, or fails.
        n_threads: threads of a backend that has any; by default one per CPU this process may use.

    Raises:
        DeviceError: that which was asked for cannot be had.
        InputError: an unknown device, or fewer than one thread.
    """
    if n_threads is not None:
        n_threads = whole("n_threads", n_threads, 1, THREADS_MAX)
    if device == AUTO:
        return _first_of_auto(n_threads)
    if device not in BACKENDS:
        raise InputError(f"unknown device {device!r}; choose one of {', '.join(device_names())}")
    opened = _tried(device, BACKENDS.get(device), n_threads)
    if isinstance(opened, DeviceError):
        raise opened
    return opened, f"{device}: as asked"


def can_fail(device: Device) -> bool:
    """Return whether a backend may fail in the middle of a run."""
    return BACKENDS.get(device).can_fail


def takes_over() -> Device:
    """Return the backend that takes over from one that failed: the first of ``auto`` that cannot."""
    return next(
        name for name, kind in _in_order().items() if kind.place_in_auto is not None and not kind.can_fail
    )


def was_passed_over(device: Device) -> bool:
    """Return whether the hardware of a backend that ``auto`` prefers to this one is there, and not used."""
    for name, kind in _in_order().items():
        if name == device:
            return False
        if kind.place_in_auto is not None and kind.probe().is_there:
            return True
    return False


def _first_of_auto(n_threads: int | None) -> tuple[Backend, str]:
    refused: list[str] = []
    for name, kind in _in_order().items():
        if kind.place_in_auto is None:
            continue
        opened = _tried(name, kind, n_threads)
        if not isinstance(opened, DeviceError):
            return opened, f"{name}: {'; '.join(refused) or kind.because}"
        refused.append(f"no {name.upper()}: {opened}")
    raise DeviceError(f"there is no device to scan on ({'; '.join(refused)}); install gpuscan again")


def _in_order() -> dict[str, BackendKind]:
    """Return the backends as ``auto`` tries them, those that it never takes last; none that is broken."""
    kinds, _ = BACKENDS.usable()
    places = {name: kind.place_in_auto for name, kind in kinds.items()}
    return {
        name: kinds[name]
        for name in sorted(kinds, key=lambda name: (places[name] is None, places[name] or 0, name))
    }


def _can_be_opened(name: str, kind: BackendKind) -> bool:
    if not kind.can_fail:  # nothing that a probe does not see
        return kind.probe().usable
    return not isinstance(_tried(name, kind, None), DeviceError)


def _tried(name: str, kind: BackendKind, n_threads: int | None) -> Backend | DeviceError:
    """Open a backend; return why not where it cannot be had."""
    found = kind.probe()
    if not found.usable:
        return DeviceError(f"{found.says}; use --device {takes_over()}, or auto")
    try:
        backend = kind.open(n_threads)
    except DeviceError as error:
        return error
    if backend.name != name:
        return DeviceError(f"the backend {name} calls itself {backend.name!r}; let it have one name")
    return backend
