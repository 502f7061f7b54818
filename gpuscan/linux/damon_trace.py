"""What kdamonds find, as their tracepoint says it: every region of an aggregation in a few reads.

Through sysfs a region is four files, and asking for them takes another 100 ms
(mm/damon/sysfs.c damon_sysfs_handle_cmd() sleeps that long between two looks at its request, v6.12).
The tracepoint ``damon:damon_aggregated`` (include/trace/events/damon.h; with ``age`` since v5.17) names them
at the end of each aggregation. It goes into a trace instance of our own, which nobody else sees, and
only while gpuscan looks.

Evidence: Documentation/trace/ftrace.rst (instances, ``trace_pipe``, ``tracing_on``).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.damon_state import TRACING
from gpuscan.linux.system import HERE, System

_EVENT = "events/damon/damon_aggregated/enable"
AGGREGATED = (
    rb"target_id=([0-9]{1,18}) nr_regions=([0-9]{1,18}) ([0-9]{1,18})-([0-9]{1,18}): ([0-9]{1,18})"
    rb"(?: ([0-9]{1,18}))?"
)
"""What the event says: target, regions, start, end, accesses, and since v5.17 age, whoever prints it."""
_LINE = re.compile(rb"-([0-9]+) [^\n]* damon_aggregated: " + AGGREGATED + rb"\n")
_N_COLUMNS = 7
_PID, _N_REGIONS, _START = 0, 2, 3
_SAID_REGIONS = re.compile(rb" nr_regions=([0-9]+) ")
_REHEARSED = b"".join(
    b" kdamond.0-1 [0] ..... 0.0: damon_aggregated: target_id=0 nr_regions=256 %d-%d: 1 0\n"
    % (n << 20, n + 1 << 20)
    for n in range(256)
)
"""An aggregation to be parsed before there is one: what is run for the first time is slow (in the guest 20 to
35 ms, later 6 to 11)."""
_READ_BYTES = 1 << 16
"""Read at a time: where many kdamonds write faster than it is read, there is always more."""
_PAUSE_S = 0.003

Rows = NDArray[np.int64]
"""int64[n, 4]: start, end, nr_accesses, age of each region."""


class AggregationTrace:
    """A trace instance with DAMON's tracepoint on. Close it; what is left is removed by its name.

    Args:
        name: of the instance to make.
        system: whose trace it is.

    Raises:
        OSError: there is no tracefs, it has no such tracepoint, or it may not be used.
    """

    def __init__(self, name: str, system: System = HERE) -> None:
        self._system = system
        self._directory = system.root / TRACING / "instances" / name
        system.mkdir(self._directory)
        self._fd = -1
        try:
            self._write("tracing_on", "0")
            self._write(_EVENT, "1")
            self._fd = system.open(self._directory / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise
        last_aggregations(_REHEARSED)

    def begin(self) -> None:
        """Trace from now on."""
        self._write("tracing_on", "1")

    def end(self) -> None:
        """Trace no longer, and forget what was traced.

        What is left is read: emptying ``trace`` has the kernel wait until no CPU writes to the buffer
        (ring_buffer_reset_online_cpus(), kernel/trace/ring_buffer.c, v6.12), 30 to 80 ms in the guest.
        """
        self._write("tracing_on", "0")
        while self._read():
            pass

    def aggregations(self, pids: Collection[int], limit_s: float) -> dict[int, Rows]:
        """Wait until each kdamond has ended an aggregation since :meth:`begin`; return their regions.

        Args:
            pids: of the kdamonds.
            limit_s: how long to wait; whoever has said nothing whole by then is left out.
        """
        deadline_ns, text = self._system.monotonic_ns() + int(limit_s * 1e9), b""
        n_parsed = 0
        while True:
            part = self._read()
            text += part
            is_over = self._system.monotonic_ns() >= deadline_ns
            # Parsing takes longer than a pause, so it waits until all lines may be there: as many as the
            # last one says, or (several kdamonds write by turns) until no more come.
            is_pausing = not part and len(text) > n_parsed
            if is_over or is_pausing or _has_lines_of_one(text, n_parsed):
                n_parsed = len(text)
                found = last_aggregations(text)
                if is_over or found.keys() >= set(pids):
                    return {pid: rows for pid, rows in found.items() if pid in pids}
            if len(part) < _READ_BYTES:
                self._system.sleep(_PAUSE_S)

    def _read(self) -> bytes:
        """Return what there is, in the pieces that the kernel gives; some 64 KiB at most."""
        found = b""
        with contextlib.suppress(BlockingIOError):
            while len(found) < _READ_BYTES and (part := self._system.read(self._fd, _READ_BYTES)):
                found += part
        return found

    def _write(self, name: str, value: str) -> None:
        self._system.write_text(self._directory / name, value)

    def close(self) -> None:
        """Remove the instance."""
        if self._fd >= 0:
            self._system.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):  # somebody reads it; the next start tries again
            self._system.rmdir(self._directory)


def _has_lines_of_one(text: bytes, begin: int) -> bool:
    """Whether as many lines follow ``begin`` as the last one says that its aggregation has."""
    said = _SAID_REGIONS.search(text, max(begin, text.rfind(b" nr_regions=", begin)))
    return said is not None and text.count(b"\n", begin) >= int(said[1])


def last_aggregations(text: bytes) -> dict[int, Rows]:
    """Return the last whole aggregation of each kdamond in the text of ``trace_pipe``, by its PID.

    A kdamond names its regions in ascending order and with each of them how many there are.
    """
    lines = _LINE.findall(text)
    if not lines:
        return {}
    texts: Iterable[bytes] = chain.from_iterable(lines)
    if not all(line[-1] for line in lines):
        texts = (text or b"0" for text in texts)
    table = np.array(list(map(int, texts)), dtype=np.int64).reshape(-1, _N_COLUMNS)
    found = {}
    for pid in np.unique(table[:, _PID]).tolist():
        rows = table[table[:, _PID] == pid]
        cuts = np.flatnonzero(np.diff(rows[:, _START]) <= 0) + 1
        whole = [part for part in np.split(rows, cuts) if len(part) == part[0, _N_REGIONS]]
        if whole:
            found[pid] = whole[-1][:, _START:]
    return found
