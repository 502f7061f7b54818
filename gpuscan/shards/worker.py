"""Scheduler and workers of a local cluster, and what a worker loads before anything else (Dask: "preload").

An interrupt from a terminal reaches every process of the group: it is for the one that
started the workers, which then ends them.

Every scheduler and worker of Dask has an HTTP server, which tells everybody on the host what runs here
(``ServerNode.start_http_server``, 2024.8 to 2026.8). These have none.
"""

from __future__ import annotations

import signal
from typing import Any

import distributed

import gpuscan.shards.shard  # noqa: F401 (a shard that is made anew need not wait for it)
from gpuscan.shards import unix_comm

unix_comm.register()  # in a worker's process before it listens: Dask finds the class below by importing this


class ShardScheduler(distributed.Scheduler):
    """A scheduler without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start none."""


class ShardWorker(distributed.Worker):
    """A worker without an HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start none."""


def dask_setup(worker: Any) -> None:
    """Ignore interrupts. Dask calls this in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
