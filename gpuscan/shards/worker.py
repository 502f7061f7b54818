"""What a worker of a local cluster loads before anything else (Dask: "preload").

An interrupt from a terminal reaches every process of the group: it is for the one that
started the workers, which then ends them.
"""

from __future__ import annotations

import signal
from typing import Any

import gpuscan.shards.shard  # noqa: F401 (a shard that is made anew need not wait for it)


def dask_setup(worker: Any) -> None:
    """Ignore interrupts. Dask calls this in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
