"""What a command says of the device it runs on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.store.contract import PageStore

_THREADS_PER_CPU = 4
"""As many as workers (gpuscan.shards.dask_transport)."""
RESERVING = "reserving room for the records"
COMPILING = "compiling the CPU kernels (once, about 20 s)"
COMPILING_THERE = "making the shards (the first time their workers compile kernels, about 20 s)"


@contextmanager
def note_if_compiling(output: Output) -> Iterator[None]:
    """Note that kernels are compiled, once that has taken a second: not that they come from Numba's cache."""
    from numba.core import event

    class Compiling(event.Listener):  # type: ignore[misc]  # Numba has no types
        """Hears of what the cache did not have."""

        def __init__(self, stack: ExitStack) -> None:
            self._stack = stack
            self._lock = threading.Lock()
            self._noted = False

        def on_start(self, event: object) -> None:
            """Start the clock, the first time."""
            with self._lock:
                first, self._noted = not self._noted, True
            if first:
                self._stack.enter_context(output.note_if_slow(COMPILING))

        def on_end(self, event: object) -> None:
            """Do nothing."""

    with ExitStack() as stack, event.install_listener("numba:compile", Compiling(stack)):
        yield


def device_row(store: PageStore, asked: str) -> str:
    """Return the device in a few words, ``cpu, 2 threads``.

    Why it is not another is said where that is there and ``asked`` is ``auto``; ``gpuscan doctor``
    and ``--json`` say it always.
    """
    from gpuscan.kernels.catalogue import AUTO, BACKENDS
    from gpuscan.kernels.failover import GuardedBackend
    from gpuscan.kernels.registry import was_passed_over
    from gpuscan.store.single import Store

    if not isinstance(store, Store):
        return f"{store.device_name}, {store.device_reason.rpartition('; ')[2]}"
    backend = store.backend
    row: str = backend.name
    if isinstance(backend, GuardedBackend):
        backend = backend.primary
    if in_short := BACKENDS.get(backend.name).in_short(backend):
        row += f", {in_short}"
    if asked == AUTO and was_passed_over(backend.name):
        row += f" ({store.device_reason})"
    return row


def check_threads(n_threads: int | None, output: Output) -> None:
    """Note that more threads than CPUs were asked for, and refuse far more.

    Raises:
        InputError: they are more than :data:`_THREADS_PER_CPU` for each.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.base.units import format_number

    n_cpus = len(os.sched_getaffinity(0))
    if n_threads is None or n_threads <= n_cpus:
        return
    most = _THREADS_PER_CPU * n_cpus
    if n_threads > most:
        raise InputError(
            f"{n_threads:,} threads are too many for {format_number(n_cpus, 'CPU')}; give up to {most}, and "
            f"more than {n_cpus} gain nothing"
        )
    output.note(
        f"gpuscan: note: {n_threads:,} threads on {format_number(n_cpus, 'CPU')}: more than "
        f"{n_cpus} gain nothing"
    )
