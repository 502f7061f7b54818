"""What a cluster of this machine's own consists of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import distributed
from distributed.security import Security

from gpuscan.shards.unix_comm import SCHEME, host_of
from gpuscan.shards.worker import ShardScheduler, ShardWorker


def cluster_spec(n_workers: int, scratch: Path) -> dict[str, Any]:
    """Return arguments of a ``SpecCluster`` that nobody else can reach.

    Args:
        n_workers: processes, each kept alive by a nanny.
        scratch: a directory that only this user may enter.
    """
    sockets = scratch / "sockets"
    sockets.mkdir(mode=0o700)
    reached = {"host": host_of(sockets), "protocol": f"{SCHEME}://", "security": _no_security()}
    worker = {
        "cls": distributed.Nanny,
        "options": reached
        | {
            "worker_class": ShardWorker,
            "nthreads": 1,
            "memory_limit": 0,
            "preload": ["gpuscan.shards.worker"],
            "local_directory": str(scratch),
            "silence_logs": logging.CRITICAL,
        },
    }
    return {
        "scheduler": {"cls": ShardScheduler, "options": reached | {"port": 0, "dashboard": False}},
        "workers": dict.fromkeys(range(n_workers), worker),
        "worker": worker,
        "security": reached["security"],
    }


def _no_security() -> Security:
    """Return a ``Security`` without what Dask is configured with, which is for clusters over TLS."""
    fields = [name for name in Security.__slots__ if name.endswith(("_file", "_cert", "_key"))]
    return Security(require_encryption=False, **dict.fromkeys(fields))  # type: ignore[no-untyped-call]
