"""Compile the CPU kernels into the cache, each record width in a process of its own.

``make test`` begins with it: otherwise each process of pytest would compile all of them at the same time.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from gpuscan.kernels.api import RecordParams
from gpuscan.kernels.cpu import CpuBackend
from stores import plain_layout

FORMATS = ("rfc", "pghot-compact")
"""One of each record width."""


def compile_for(format_name: str) -> None:
    """Open a store, which loads the scans, and call each of the other operations once, on no pages."""
    kernels = CpuBackend(1).open(plain_layout(format_name))
    kernels.load(kernels.dump())
    nothing, nids, outcomes = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint8)
    kernels.request(nothing, nids, outcomes)
    kernels.record(nothing, nids, RecordParams(now_jiffies=0, window_jiffies=1, threshold=1), outcomes)
    kernels.release(nothing, nothing.astype(kernels.layout.fmt.dtype), outcomes)
    kernels.discard(nothing)
    kernels.count_ready()
    kernels.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        compile_for(sys.argv[1])
    else:
        running = [subprocess.Popen([sys.executable, __file__, name]) for name in FORMATS]
        sys.exit(max(process.wait() for process in running))
