"""Have the RFC's threads of the guest's kernel at work and keep what it says of them.

``python -m tests.guest.record_kmigrated`` leaves in ``$GUEST_OUT`` the trace, /proc/zoneinfo, and how
/proc/vmstat changed in each part. For the guest: it switches NUMA balancing on and off.

Two processes on different nodes whose pages lie by turns on one node get batches with several targets, and a
process with more hot pages than a batch holds gets full ones.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import kernel, kmigrated
from .processes import Pair, Workload

PAIR_S, ONE_S = 20, 15
NOT_TRACED = 3
"""Exit status: the running kernel does not say what kmigrated does."""


@contextmanager
def counted(what: str, changes: dict[str, dict[str, int]]) -> Iterator[None]:
    """Note what the kernel counted of pages that moved or did not, then switch NUMA balancing off."""
    before = kernel.vmstat()
    yield
    after = kernel.vmstat()
    kernel.settle()
    names = [name for name in after if name.startswith(("numa_", "pgmigrate_", "pgpromote_"))]
    changes[what] = {name: after[name] - before[name] for name in names}


def main() -> int:
    """Record a part in each mode of NUMA balancing."""
    if not kmigrated.is_traced():
        sys.stderr.write("the guest's kernel does not say what its kmigrated does\n")
        return NOT_TRACED
    kernel.settle()
    kmigrated.begin_trace()
    changes: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        with Pair(Path(name)), counted("two processes, mode 1", changes):
            kernel.set_numa_balancing(1)
            time.sleep(PAIR_S)
        with Pair(Path(name)), counted("two processes, mode 2", changes):
            kernel.set_numa_balancing(2)
            time.sleep(PAIR_S)
        with Workload(Path(name), "--pause-ms", "1"), counted("one process, mode 2", changes):
            kernel.set_numa_balancing(2)
            time.sleep(ONE_S)
        trace = kmigrated.trace()
    out = Path(os.environ["GUEST_OUT"])
    (out / "trace").write_text(trace)
    (out / "zoneinfo").write_text(Path("/proc/zoneinfo").read_text())
    (out / "vmstat.json").write_text(json.dumps(changes, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
