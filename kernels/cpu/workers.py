"""The threads a backend owns. Kernels release the GIL; these run them side by side."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Workers:
    """Up to ``n_threads`` threads, the caller included; started at first need, again after a fork."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._forget()
        _ALL.add(self)

    def _forget(self) -> None:
        # After a fork only the forking thread exists in the child: an executor there has no
        # threads but thinks it does, and a lock may be held by a thread that is not there.
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.n_threads - 1, thread_name_prefix="gpuscan")
            return self._executor

    def run(self, n_tasks: int, task: Callable[[int], None], *, inline: bool = False) -> None:
        """Call ``task(0)`` to ``task(n_tasks - 1)``, begun in this order, and return when all are done.

        The caller works too, so calls from many threads never wait for each other.

        Raises:
            The first exception of a task, or one raised in the caller meanwhile
            (KeyboardInterrupt); no further tasks are begun then, and those running have ended.
        """
        n_helpers = 0 if inline else min(n_tasks, self.n_threads) - 1
        if n_helpers <= 0:
            for index in range(n_tasks):
                task(index)
            return
        tasks = _Tasks(n_tasks, task)
        try:
            for _ in range(n_helpers):
                self._threads().submit(tasks.help)
            tasks.work()
        finally:
            tasks.finish()
        if tasks.error is not None:
            raise tasks.error

    def close(self) -> None:
        """Let the threads end. They start again when they are needed."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()


class _Tasks:
    """One call of :meth:`Workers.run`."""

    def __init__(self, n_tasks: int, task: Callable[[int], None]) -> None:
        self.task = task
        self.n_tasks = n_tasks
        self.next_task = 0
        self.n_helping = 0
        self.changed = threading.Condition()
        self.error: BaseException | None = None

    def help(self) -> None:
        """Work in a thread of the pool. Only these are waited for: signals interrupt the caller alone."""
        with self.changed:
            if self.next_task >= self.n_tasks:
                return  # also when run() is over: nothing may start then
            self.n_helping += 1
        try:
            self.work()
        finally:
            with self.changed:
                self.n_helping -= 1
                self.changed.notify_all()

    def work(self) -> None:
        """Take tasks until there are none."""
        while True:
            with self.changed:
                if self.next_task >= self.n_tasks:
                    return
                index = self.next_task
                self.next_task += 1
            try:
                self.task(index)
            except BaseException as error:  # handed to the caller of run(), whatever it is
                with self.changed:
                    self.error = self.error or error
                    self.next_task = self.n_tasks

    def finish(self) -> None:
        """Begin no more tasks and wait for those running, even if Ctrl-C is pressed again."""
        while True:
            try:
                with self.changed:
                    self.next_task = self.n_tasks
                    while self.n_helping:
                        self.changed.wait()
                return
            except KeyboardInterrupt as interrupt:
                self.error = self.error or interrupt


_ALL: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork() -> None:
    for workers in _ALL:
        workers._forget()


os.register_at_fork(after_in_child=_after_fork)
