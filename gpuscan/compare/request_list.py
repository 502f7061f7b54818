"""The open loop's list: who asks for which page to go where, and when; the same bytes for every design.

Made by the workload's producer on a machine on which nothing moves, so every entry is of the
frame that the page has all along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.compare.settings import Settings
from gpuscan.compare.stream import Stream, observed
from gpuscan.files.writing import new_file
from gpuscan.producers.contract import Observed
from gpuscan.topology import Topology

ENTRY = np.dtype([("time_ns", "<i8"), ("pfn", "<i8"), ("nid", "<i4"), ("cpu", "<i4")])
"""One request. ``cpu`` is where the fault was: lists per CPU need it."""

_CHUNK_ENTRIES = 1 << 20
"""Hashed together: of a machine of 1 TiB all of them are hundreds of MiB, in each process."""


@dataclass(frozen=True, slots=True)
class RequestList:
    """A list in a file, ascending in time.

    Attributes:
        path: ``.npy`` of :data:`ENTRY`.
        n: entries.
        n_seen: entries that the producer made until it was stopped, or its time was over.
        end_ns: until when the list goes.
        digest: SHA-256 of the entries.
        hint_faults: whether hint faults asked for them; only some designs tell them from others.
    """

    path: Path
    n: int
    n_seen: int
    end_ns: int
    digest: str
    hint_faults: bool = True

    def entries(self) -> NDArray[Any]:
        """Return the entries, mapped read-only.

        Raises:
            InputError: the file is not what was written.
        """
        entries: NDArray[Any] = np.load(self.path, mmap_mode="r")
        if digest_entries(entries) != self.digest:
            raise InputError(f"{self.path} was changed while designs read it; run the comparison again")
        return entries


def digest_entries(entries: NDArray[Any], which: NDArray[np.bool_] | None = None) -> str:
    """Return the SHA-256 of entries, or of those that ``which`` (bool[n]) says."""
    digest = hashlib.sha256()
    for start in range(0, len(entries), _CHUNK_ENTRIES):
        part = entries[start : start + _CHUNK_ENTRIES]
        digest.update((part if which is None else part[which[start : start + len(part)]]).tobytes())
    return digest.hexdigest()


def make_request_list(
    settings: Settings,
    stream: Stream,
    path: Path,
    limit: int | None = None,
    on_time: Callable[[int], None] | None = None,
) -> RequestList:
    """Let the producer run on a machine where nothing moves, until ``limit`` requests (None: all) or the end.

    Raises:
        InputError: it asks for nothing.
        RunFailedError: the list cannot be written.
    """
    faults = observed(stream.open(), stream, settings.policy.interval_ns, on_time)
    return collect(settings.topology, faults, path, limit)


def collect(
    topology: Topology, faults: Iterator[tuple[int, Observed]], path: Path, limit: int | None
) -> RequestList:
    """Keep what observed faults ask for, in order of time, and write it.

    Args:
        topology: whose CPUs the faults fall on: a node's in turn.
        faults: (end of the tick, its faults); those without times count as made then.
        path: of the list.
        limit: entries at most, None for all.

    Raises:
        InputError: nothing was asked for.
    """
    parts: list[NDArray[Any]] = []
    n_seen = end_ns = 0
    hint_faults = True
    cpus = {node.nid: np.array(node.cpus, dtype=np.int32) for node in topology.nodes if node.cpus}
    for tick_end_ns, seen in faults:
        part = np.empty(int(np.count_nonzero(seen.wanted)), dtype=ENTRY)
        part["time_ns"] = tick_end_ns if seen.at_ns is None else seen.at_ns[seen.wanted]
        part["pfn"] = seen.pfns[seen.wanted]
        part["nid"] = seen.target_nids[seen.wanted]
        cpu_nids = seen.cpu_nids[seen.wanted]
        for nid in np.unique(cpu_nids).tolist():
            mine = np.flatnonzero(cpu_nids == nid)
            part["cpu"][mine] = cpus[nid][np.arange(len(mine)) % len(cpus[nid])]
        parts.append(part[np.argsort(part["time_ns"], kind="stable")])
        n_seen += len(part)
        hint_faults = seen.at_fault
        end_ns = tick_end_ns
        if limit is not None and n_seen >= limit:
            break
    if not n_seen:
        raise InputError(
            "the producer asks for no page at all, so there is nothing to compare; choose another "
            "workload, such as cxl-promote, or more ticks"
        )
    requests = write_request_list(np.concatenate(parts)[:limit], path, n_seen, end_ns)
    return replace(requests, hint_faults=hint_faults)


def write_request_list(
    entries: NDArray[Any], path: Path, n_seen: int | None = None, end_ns: int | None = None
) -> RequestList:
    """Write entries, ascending in time, as a list."""
    with new_file(path) as file:
        np.save(file, entries)
    last_ns = int(entries["time_ns"][-1])
    if end_ns is None or n_seen is None or n_seen > len(entries):
        end_ns = last_ns
    return RequestList(path, len(entries), n_seen or len(entries), end_ns, digest_entries(entries))
