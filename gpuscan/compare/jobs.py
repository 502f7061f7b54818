"""Independent jobs in processes of their own, with progress; in this process where there is one CPU for them.

A model runs in Python, one design on one core. The processes are started anew (``spawn``), not
forked: NumPy and the scan's threads are around.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from gpuscan.base.errors import GpuscanError, RunFailedError

_SAY_EVERY_S = 0.2


class Job(Protocol):
    """A piece of work that can be pickled."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def run(self, on_share: Callable[[float], None]) -> Any:
        """Do it, tell of each share (of 1) that is done, and return what can be pickled."""
        ...


def run_jobs(
    jobs: Sequence[Job], n_processes: int, on_share: Callable[[str, float], None]
) -> Iterator[tuple[Job, Any]]:
    """Run jobs and yield each with its result, as they end.

    Args:
        jobs: begun in this order.
        n_processes: at once; with 1 they run here.
        on_share: called with a job's name and a share of it that is done, first 0 when it begins.

    Raises:
        GpuscanError: a job failed; all others are ended.
        RunFailedError: a process died.
    """
    if n_processes == 1:
        for job in jobs:
            on_share(job.name, 0.0)
            yield job, job.run(partial(on_share, job.name))
        return
    context = multiprocessing.get_context("spawn")
    waiting, running = list(jobs), dict[Connection, tuple[Job, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < n_processes:
                job = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, job), daemon=True)
                process.start()
                theirs.close()
                running[ours] = job, process
                on_share(job.name, 0.0)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job, process = running[connection]
                kind, content = _received(connection, job, process)
                if kind == "share":
                    on_share(job.name, content)
                    continue
                del running[connection]
                process.join()
                if kind == "failed":
                    raise content
                yield job, content
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _received(connection: Connection, job: Job, process: Any) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except EOFError:
        process.join()
        raise RunFailedError(
            f"the process of {job.name} died (exit code {process.exitcode}); memory may be short: give fewer "
            "--jobs or a smaller --memory"
        ) from None
    return kind, content


def _work(connection: Connection, job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    done, said = 0.0, time.monotonic()

    def on_share(share: float) -> None:
        nonlocal done, said
        done += share
        if time.monotonic() - said >= _SAY_EVERY_S:
            connection.send(("share", done))
            done, said = 0.0, time.monotonic()

    try:
        result = job.run(on_share)
        connection.send(("share", done))
        connection.send(("done", result))
    except GpuscanError as error:
        connection.send(("failed", error))
    finally:
        connection.close()
