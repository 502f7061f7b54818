"""Independent jobs in processes of their own, with progress; in this process where there is one CPU for them.

A model runs in Python, one design on one core. The processes are started anew (``spawn``), not
forked: NumPy and the scan's threads are around.
"""

from __future__ import annotations

import gc
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
            gc.collect()
        return
    waiting, workers = list(jobs), dict[Connection, _Worker]()
    try:
        for _ in range(min(n_processes, len(waiting))):
            worker = _Worker()
            workers[worker.connection] = worker
            worker.begin(waiting.pop(0), on_share)
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                kind, content = worker.received()
                if kind == "share":
                    on_share(worker.job.name, content)
                    continue
                if kind == "failed":
                    raise content
                job = worker.job
                if waiting:
                    worker.begin(waiting.pop(0), on_share)
                else:
                    worker.end()
                    del workers[connection]
                yield job, content
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.join()


class _Worker:
    """A process that does one job after the other: to start one takes as long as a small job."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job

    def begin(self, job: Job, on_share: Callable[[str, float], None]) -> None:
        """Hand over a job."""
        self.job = job
        on_share(job.name, 0.0)
        self.connection.send(job)

    def received(self) -> tuple[str, Any]:
        """Return what the process says.

        Raises:
            RunFailedError: it died.
        """
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RunFailedError(
                f"the process of {self.job.name} died (exit code {self.process.exitcode}); memory may be "
                "short: give fewer --jobs or a smaller machine"
            ) from None
        return kind, content

    def end(self) -> None:
        """Let the process end."""
        self.connection.send(None)
        self.process.join()


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    try:
        while (job := connection.recv()) is not None:
            _do(job, connection)
            gc.collect()  # a model and its ledger know each other: gigabytes would wait for their turn
    except EOFError:  # whoever started us is gone
        return
    finally:
        connection.close()


def _do(job: Job, connection: Connection) -> None:
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
