"""What a shard is told and what it answers, and the bytes that this takes.

A message is a list of operations that are done in order. One that changes the shard carries a
sequence number; a question carries that of the message it comes after. Arrays travel beside the
pickled rest, uncopied (pickle protocol 5, out-of-band buffers).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.topology import Topology

Frames = list[NDArray[np.uint8]]
"""A packed object: the pickle, then its arrays' bytes."""


class ShardLostError(Exception):
    """The process that had a shard is gone, and the shard with it.

    Attributes:
        shard: which.
        why: what is known of it, for people.
    """

    def __init__(self, shard: int, why: str = "its worker is gone") -> None:
        super().__init__(shard, why)
        self.shard = shard
        self.why = why


class ShardBehindError(ShardLostError):
    """A shard was not told all that it should have been: the cluster made it again, from an earlier state."""


class Op(NamedTuple):
    """One operation: the name of a method of :class:`gpuscan.shards.shard.Shard`, and its arguments."""

    name: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """Operations in order.

    Attributes:
        seq: counts the messages of a shard from 1, None for a question.
        ops: what to do.
        after: of a question, the message whose state it is about; None = whatever there is.
    """

    seq: int | None
    ops: tuple[Op, ...]
    after: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What each operation returned, and nids of nodes on which pages became READY since the last reply."""

    seq: int | None
    results: tuple[Any, ...]
    active_nids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """What a shard is made of; enough to make it anew somewhere else.

    Attributes:
        shard, n_shards: which of how many.
        topology: the whole machine.
        first_section, end_section: flat sections of it that the shard has.
        record_format, device, fixed_target, large_folios, n_threads: as for a single store (``Store``).
    """

    shard: int
    n_shards: int
    topology: Topology = field(repr=False)
    first_section: int
    end_section: int
    record_format: str
    device: str
    fixed_target: int | None
    large_folios: bool
    n_threads: int | None


@dataclass(frozen=True, slots=True, eq=False)
class ShardScan:
    """What a shard claimed. Folios are flat pages *of the shard*.

    Attributes:
        counts: int64[n_targets], folios for each target: what gives every shard its place in the plan.
        cursor: first flat page of the shard not covered.
        path, why, scan_ns, examined_pages, examined_bytes, n_unknown_target, n_superseded: as
            in :class:`gpuscan.store.plan.Plan`.
        lists: ``flat`` uint32[n], ``words`` and ``order`` of the folios by target.
    """

    counts: NDArray[np.int64]
    cursor: int
    path: str
    why: str
    scan_ns: int
    examined_pages: int
    examined_bytes: int
    n_unknown_target: int
    n_superseded: int
    lists: Lists

    @property
    def n_claimed(self) -> int:
        """Folios that are not READY any more."""
        return int(self.counts.sum()) + self.n_unknown_target + self.n_superseded


class Lists(NamedTuple):
    """Claimed folios by target: ``flat`` uint32[n] pages of the shard, ``words``; ``order`` or None."""

    flat: NDArray[np.uint32]
    words: NDArray[Any]
    order: NDArray[np.uint8] | None


def pack(thing: Any) -> Frames:
    """Return the bytes of an object; arrays are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    frames = [np.frombuffer(header, dtype=np.uint8)]
    frames += [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
    return frames


def unpack(frames: Sequence[Any]) -> Any:
    """Return the object that was packed; its arrays are views of ``frames``."""
    return pickle.loads(frames[0], buffers=frames[1:])


def n_bytes(frames: Frames) -> int:
    """Return the bytes of all frames."""
    return sum(frame.nbytes for frame in frames)
