"""A timeline in the Trace Event Format, gzipped: https://ui.perfetto.dev opens it.

Format: "Trace Event Format" (Google, 2016), its JSON object form. Each node is a process, with threads for
what happens there: moves to it, walks of its memory, sleeps in between. ``gpuscan`` is a process, too: its
ticks and scans. Numbers over time are counters of both.

Times are the machine's: a simulated one's where it is simulated. What was measured on the computer that ran
gpuscan (a scan of its own) lies where the machine was, as long as it took.
"""

from __future__ import annotations

import gzip
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import ArgumentError
from gpuscan.base.program import PROGRAM
from gpuscan.files.writing import new_file

if TYPE_CHECKING:
    from gpuscan.engine.report import TickReport

N_SLICES_MAX = 200_000
"""Of walks and batches; ticks have theirs beside them. Some 3 MB in the file."""
_US = 1e-3
_OURS = 0
_TICKS, _SCANS = 1, 2
_MOVES, _WALKS, _SLEEPS = 1, 2, 3
_NAMES = ("batch", "look", "move", "sleep")
_COLUMNS = {
    "name": ("b", len(_NAMES)),
    "node": ("l", 1 << 31),
    "thread": ("b", _SLEEPS + 1),
    "start_ns": ("d", checked.TIME_NS_MAX),
    "long_ns": ("d", checked.TIME_NS_MAX),
    "folios": ("l", INT64_MAX),
    "pages": ("l", INT64_MAX),
}
"""Of a slice: what each is (of ``array``), and what it is below; folios and pages are 0 where none moved."""
_STATE = ("slices", "moving_until_ns", "awake_until_ns", "n_left_out", "begins_at_tick")
_THREADS = {_MOVES: "moves to it", _WALKS: "looks at its pages, and moves from it", _SLEEPS: "sleeps"}
_COUNTERS = {
    "requests": ("marked", "refused", "dropped"),
    "READY afterwards": ("pending",),
    "moved (folios)": ("migrated",),
}
_METRICS = {
    "faults": ("hint_faults",),
    "demoted by kswapd (pages)": ("demoted_pages",),
    "accesses": ("accesses", "accesses_fast"),
}


class Timeline:
    """Is told what took how long, and keeps it until the end of a run.

    Args:
        nodes: what each is called, by nid.
        n_slices_max: what comes after so many is counted and left out.

    Attributes:
        n_left_out: slices.
        begins_at_tick: slices of ticks before that are not in it.
    """

    def __init__(self, nodes: Mapping[int, str], n_slices_max: int = N_SLICES_MAX) -> None:
        self.begins_at_tick = 0
        self._nodes = nodes
        self._n_slices_max = n_slices_max
        self._slices: dict[str, array[Any]] = {name: array(kind) for name, (kind, _) in _COLUMNS.items()}
        self._moving_until_ns: dict[int, float] = {}
        self._awake_until_ns: dict[int, float] = {}
        self.n_left_out = 0

    def batch(self, now_ns: int, target_nid: int, n_folios: int, n_pages: int, busy_ns: float) -> None:
        """See a batch that was moved: its target's migrator begins it when it is done with the one before.

        Args:
            now_ns: when the plan was made.
            target_nid: where to.
            n_folios, n_pages: folios, and base pages of them.
            busy_ns: how long the migrator took.
        """
        start_ns = max(float(now_ns), self._moving_until_ns.get(target_nid, 0.0))
        self._moving_until_ns[target_nid] = start_ns + busy_ns
        self._keep("batch", target_nid, _MOVES, start_ns, busy_ns, n_folios, n_pages)

    def walk(self, nid: int, start_ns: int, look_ns: float, migrate_ns: float) -> None:
        """See a walk of a node's thread.

        Args:
            nid: whose.
            start_ns: when it began.
            look_ns, migrate_ns: how long it looked, and moved what it had found.
        """
        awake_until_ns = self._awake_until_ns.get(nid, float(start_ns))
        if start_ns > awake_until_ns:
            self._keep("sleep", nid, _SLEEPS, awake_until_ns, start_ns - awake_until_ns)
        began_ns = max(float(start_ns), awake_until_ns)  # threads count whole nanoseconds
        self._keep("look", nid, _WALKS, began_ns, look_ns)
        if migrate_ns:
            self._keep("move", nid, _WALKS, began_ns + look_ns, migrate_ns)
        self._awake_until_ns[nid] = began_ns + look_ns + migrate_ns

    def _keep(
        self,
        name: str,
        nid: int,
        thread: int,
        start_ns: float,
        long_ns: float,
        n_folios: int = 0,
        n_pages: int = 0,
    ) -> None:
        if len(self._slices["name"]) >= self._n_slices_max:
            self.n_left_out += 1
            return
        values = (_NAMES.index(name), nid, thread, start_ns, long_ns, n_folios, n_pages)
        for column, value in zip(self._slices.values(), values, strict=True):
            column.append(value)

    def state(self) -> dict[str, Any]:
        """Return all that it was told; of a time, which is a float64, its bits as int64."""
        columns = {name: np.array(column) for name, column in self._slices.items()}
        return {
            "slices": {
                name: column.view(np.int64) if column.dtype == np.float64 else column
                for name, column in columns.items()
            },
            "moving_until_ns": sorted(self._moving_until_ns.items()),
            "awake_until_ns": sorted(self._awake_until_ns.items()),
            "n_left_out": self.n_left_out,
            "begins_at_tick": self.begins_at_tick,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, of the same nodes.

        Raises:
            ArgumentError: that was something else.
        """
        found = checked.table(state, "the timeline", _STATE)
        slices = checked.table(found["slices"], "slices of the timeline", tuple(_COLUMNS))
        n = min(len(slices["name"]), self._n_slices_max)
        for name, (kind, end) in _COLUMNS.items():
            what, is_time = f"{name} of the timeline", kind == "d"
            column = checked.array(slices[name], np.int64 if is_time else np.dtype(kind), what, n=n)
            values = column.view(np.float64) if is_time else column
            if not ((values >= 0) & (values < end)).all():
                raise ArgumentError(f"{what} are not all from 0 to {end}")
            self._slices[name] = array(kind, values.tobytes())
        if not set(self._slices["node"]) <= self._nodes.keys():
            raise ArgumentError("the timeline is of nodes that are not there")
        self._moving_until_ns = _until(found["moving_until_ns"])
        self._awake_until_ns = _until(found["awake_until_ns"])
        self.n_left_out = checked.whole(found["n_left_out"], 0, INT64_MAX, "n_left_out")
        self.begins_at_tick = checked.whole(found["begins_at_tick"], 0, INT64_MAX, "begins_at_tick")

    def events(self, ticks: Sequence[TickReport]) -> Iterator[dict[str, Any]]:
        """Yield all events of a run, names first."""
        yield _name("process_name", _OURS, 0, PROGRAM)
        yield _name("thread_name", _OURS, _TICKS, "ticks")
        yield _name("thread_name", _OURS, _SCANS, "scans (measured on the computer that ran it)")
        seen = set(zip(self._slices["node"], self._slices["thread"], strict=True))
        for nid, name in self._nodes.items():
            yield _name("process_name", nid + 1, 0, name)
            for thread, what in _THREADS.items():
                if (nid, thread) in seen:
                    yield _name("thread_name", nid + 1, thread, what)
        for kind, nid, thread, start_ns, long_ns, n_folios, n_pages in zip(
            *self._slices.values(), strict=True
        ):
            facts = {"folios": n_folios, "pages": n_pages} if n_folios else {}
            yield _slice(_NAMES[kind], nid + 1, thread, start_ns, long_ns, facts)
        for tick in ticks:
            end_ns = tick.now_ns + tick.duration_ns
            yield _slice("tick", _OURS, _TICKS, tick.now_ns, tick.duration_ns, {"tick": tick.tick})
            if tick.scan_ns and tick.path not in ("walk", "turn"):
                yield _slice(tick.path, _OURS, _SCANS, end_ns, tick.scan_ns, {"candidates": tick.candidates})
            yield from _counters(tick, end_ns)

    def write(self, path: Path, ticks: Sequence[TickReport]) -> None:
        """Write the timeline of a run: whole, or not at all.

        Raises:
            InputError: something other than a file has that name.
            RunFailedError: the system refused it; nothing was left.
        """
        said = {}
        if self.n_left_out:
            said["left_out"] = f"{self.n_left_out:,} slices after the first {self._n_slices_max:,}"
        if self.begins_at_tick:
            said["begins"] = f"batches from tick {self.begins_at_tick} on; counters of all ticks"
        with new_file(path) as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
            packed.write(b'{"displayTimeUnit":"ms","otherData":')
            packed.write(json.dumps(said).encode())
            packed.write(b',"traceEvents":[\n')
            for at, event in enumerate(self.events(ticks)):
                packed.write(b",\n" if at else b"")
                packed.write(json.dumps(event, separators=(",", ":")).encode())
            packed.write(b"\n]}\n")


def _until(pairs: Any) -> dict[int, float]:
    """Return times by nid."""
    return {
        checked.whole(nid, 0, INT64_MAX, "a node"): checked.number(ns, 0, checked.TIME_NS_MAX, "a time")
        for nid, ns in checked.pairs(pairs, "times of the timeline")
    }


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _slice(
    name: str, process: int, thread: int, start_ns: float, long_ns: float, facts: dict[str, Any]
) -> dict[str, Any]:
    event = {"ph": "X", "name": name, "pid": process, "tid": thread}
    return event | {"ts": start_ns * _US, "dur": long_ns * _US, "args": facts}


def _counters(tick: TickReport, end_ns: int) -> Iterator[dict[str, Any]]:
    for name, fields in _COUNTERS.items():
        yield _counter(name, end_ns, {field: getattr(tick, field) for field in fields})
    for name, fields in _METRICS.items():
        values = {field: tick.metrics[field] for field in fields if field in tick.metrics}
        if values:
            yield _counter(name, end_ns, values)


def _counter(name: str, at_ns: int, values: Mapping[str, float]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": _OURS, "tid": 0, "ts": at_ns * _US, "args": dict(values)}
