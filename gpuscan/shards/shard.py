"""One shard: a store over a part of the flat index, and the operations that messages name.

Every operation depends on the shard's state and its arguments alone, so a shard that is made
anew from a checkpoint and told the same messages is the same shard, its claims included.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import CheckpointError, DeviceError, DeviceFailedError, InputError, RunFailedError
from gpuscan.files.owned import remove_tree
from gpuscan.files.settled import settled
from gpuscan.files.writing import sync
from gpuscan.kernels.api import (
    N_RELEASE_OUTCOMES,
    Budget,
    Cutoffs,
    KeyCounts,
    RecordParams,
    ReleaseOutcome,
    ScanPath,
    ScanRequest,
)
from gpuscan.kernels.budgets import Limits, keep_within
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.registry import can_fail, open_backend
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.shards.messages import Lists, Message, Reply, ShardBehindError, ShardScan, ShardSpec
from gpuscan.store.single import Store
from gpuscan.store.state import page_arrays

if TYPE_CHECKING:
    from gpuscan.checkpoint.arrays import ArrayFacts, ArrayPlace, Written
    from gpuscan.checkpoint.directory import CheckpointDirectory


class Shard:
    """A shard.

    Args:
        spec: which part of which machine.
        state: a checkpoint to begin with, written by :meth:`checkpoint`.

    Raises:
        DeviceError: the device is not there or too small.
        CheckpointError: the checkpoint cannot be read, or is of something else.
    """

    def __init__(self, spec: ShardSpec, state: Path | None = None) -> None:
        self.spec = spec
        backend, why = open_backend(spec.device, spec.n_threads)
        self.store = Store(
            spec.topology,
            spec.record_format,
            GuardedBackend(backend) if can_fail(backend.name) else backend,
            fixed_target=spec.fixed_target,
            large_folios=spec.large_folios,
            page_map=spec.topology.page_map.part(spec.first_section, spec.end_section),
        )
        self.store.device_reason = why
        self.first_flat = spec.first_section * SECTION_PAGES
        self._is_closed = False
        self._seq = 0
        self._last = Reply(0, ())
        self._counted: KeyCounts | None = None
        self._cuts: Cutoffs | None = None
        self._unsettled: list[Lists] = []
        self._freed: list[tuple[int, NDArray[np.int64]]] = []
        """Freed folios, and how many of the unsettled lists were there then."""
        self._n_freed = 0
        self._checkpoints: CheckpointDirectory | None = None
        if state is not None:
            from gpuscan.checkpoint.store_state import load_store

            extra = load_store(state, self.store)
            self._seq = int(extra["seq"])
            self._last = Reply(self._seq, ())
            self._n_freed = int(extra["n_claims_freed"])
            if len(extra["claimed_flat"]):
                self._unsettled.append(Lists(extra["claimed_flat"], extra["claimed_words"], None))

    def handle(self, message: Message) -> Reply:
        """Do what a message says. One that was seen before is answered again and changes nothing.

        Raises:
            ShardBehindError: a message is missing, so this is not the shard that is spoken to.
            DeviceError, DeviceFailedError: the device failed, and the shard is gone with it.
        """
        try:
            return self._handle(message)
        except (DeviceError, DeviceFailedError):
            with suppress(Exception):  # a lost device frees nothing
                self.close()
            raise

    def _handle(self, message: Message) -> Reply:
        if message.seq is None:
            if message.after not in (None, self._seq):
                raise ShardBehindError(self.spec.shard, f"it was at message {self._seq}")
            return Reply(None, self._do(message))
        if message.seq <= self._seq:
            return self._last if message.seq == self._seq else Reply(message.seq, ())
        if message.seq != self._seq + 1:
            raise ShardBehindError(self.spec.shard, f"it was at message {self._seq}")
        results = self._do(message)
        self._seq = message.seq
        active = tuple(np.flatnonzero(self.store.take_active()).tolist())
        self._last = Reply(message.seq, results, active)
        return self._last

    def _do(self, message: Message) -> tuple[Any, ...]:
        return tuple(getattr(self, op.name)(*op.args) for op in message.ops)

    # Producers and upkeep: PFNs are the machine's, flat pages those of the shard.

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Mark pages; return the counts and the outcomes, where an array for these was given."""
        outcomes = outcomes.copy()
        return self.store.kernels.request(pfns, nids, outcomes), outcomes

    def record(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], params: RecordParams
    ) -> NDArray[np.int64]:
        """Count accesses."""
        return self.store.kernels.record(pfns, nids, params, np.empty(0, dtype=np.uint8))

    def release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> NDArray[np.int64]:
        """Put claimed folios back."""
        return self.store.kernels.release(flats, words, np.empty(0, dtype=np.uint8))

    def admit(self, flats: NDArray[np.int64], order: int) -> None:
        """Make folios eligible."""
        self.store.admit(flats, order)

    def forget(self, flats: NDArray[np.int64]) -> int:
        """Make folios ineligible. Claims of them end: their pages may be another folio's soon."""
        if self._unsettled:  # taken out of the lists when these are looked at: frees are many and small
            self._freed.append((len(self._unsettled), flats))
        return self.store.forget(flats)

    def load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None) -> None:
        """Set eligibility of all pages."""
        self.store.load_pages(eligible_bits, order)

    def restore(self, state: Mapping[str, Any]) -> int:
        """Take this shard's part of the state of the whole store; return how many folios are READY.

        Raises:
            CheckpointError: what it is kept in cannot be read here.
            ValueError: it is of something else.
        """
        try:
            self.store.restore(state, first_section=self.spec.first_section)
        except CheckpointError as error:
            raise CheckpointError(
                f"shard {self.spec.shard}: {error}; every worker must see that directory"
            ) from None
        return self.store.count_ready()

    # The scan

    def count_keys(
        self, limit_pages: NDArray[np.int64], resume_flat: NDArray[np.int64], now: int, nodes: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count for a budget; return limited targets with READY pages, their counts, and all pages seen."""
        budget = Budget(limit_pages, resume_flat, now)
        counted = self.store.kernels.count_keys(budget, 0, self.store.n_pages, nodes)
        self._counted, self._cuts = counted, None
        some = counted.pages_of_key.any(axis=1)
        return counted.targets[some], counted.pages_of_key[some], counted.seen_pages

    def cut(
        self, cut_key: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Cut what was counted; return int64[n_targets] above the cut-offs, and ties on both sides."""
        if self._counted is None:
            raise ValueError("nothing was counted")
        cuts = self._counted.cut(cut_key)
        self._counted, self._cuts = None, cuts
        return (
            cuts.above_pages.sum(axis=0),
            cuts.tie_pages_from.sum(axis=0),
            cuts.tie_pages_below.sum(axis=0),
        )

    def limit(self, limits: Limits) -> None:
        """Keep to what the budget of the machine leaves this shard."""
        if self._cuts is None:
            raise ValueError("nothing was cut")
        keep_within(self._cuts, limits)

    def scan(self, lo: int, hi: int, capacity: int, path: ScanPath, nodes: Any, budgeted: bool) -> ShardScan:
        """Claim the READY folios of a range; they are remembered until they are settled."""
        cuts = self._cuts if budgeted else None
        plan = self.store.scan_range(ScanRequest(lo, hi, capacity, path, nodes, cuts))
        lists = Lists(plan.flat.astype(np.uint32), plan.words, plan.order)
        self._unsettled.append(lists)
        return ShardScan(
            np.diff(plan.offsets),
            plan.cursor,
            plan.path,
            plan.why,
            plan.scan_ns,
            plan.examined_pages,
            plan.examined_bytes,
            plan.n_unknown_target,
            plan.n_superseded,
            lists,
        )

    def settle(self) -> None:
        """Let go of claimed folios: what becomes of them is known and booked elsewhere."""
        self._unsettled.clear()
        self._freed.clear()
        self._n_freed = 0

    def hold(self, flats: NDArray[np.int64], words: NDArray[Any]) -> None:
        """Remember claimed folios (again) until the next :meth:`settle`."""
        self._unsettled.append(Lists(flats.astype(np.uint32), words, None))

    def put_back(self) -> NDArray[np.int64]:
        """Release every claim that was not settled; return how many are READY, superseded or were freed."""
        total = np.zeros(N_RELEASE_OUTCOMES, dtype=np.int64)
        for claimed in self._claims():
            flats = claimed.flat.astype(np.int64)
            total += self.store.kernels.release(flats, claimed.words, np.empty(0, dtype=np.uint8))
        total[ReleaseOutcome.INELIGIBLE] += self._n_freed
        self.settle()
        return total

    def _claims(self) -> list[Lists]:
        """Return the claims that are not settled, without the folios that were freed since."""
        if self._freed:
            for number, claimed in enumerate(self._unsettled):
                freed = [flats for n_lists, flats in self._freed if n_lists > number]
                kept = np.isin(
                    claimed.flat, np.concatenate([np.empty(0, dtype=np.int64), *freed]), invert=True
                )
                self._n_freed += len(kept) - int(kept.sum())
                self._unsettled[number] = Lists(claimed.flat[kept], claimed.words[kept], None)
            self._freed.clear()
        return self._unsettled

    # Questions

    def warm(self, record: bool) -> None:
        """Load what a run calls."""
        self.store.warm(record=record)

    def last_seq(self) -> int:
        """Return the number of the last message that was done."""
        return self._seq

    def count_ready(self) -> int:
        """Return how many folios are READY."""
        return self.store.count_ready()

    def describe(self) -> tuple[str, str]:
        """Return the backend's name, and why it was taken."""
        return self.store.device_name, self.store.device_reason

    def checkpoint(self, directory: Path) -> int:
        """Write all there is to know, synced, then named; return the last message in it.

        Args:
            directory: where this shard has its checkpoints; only what changed is written again.

        Raises:
            RunFailedError: it cannot be written; the checkpoint before is untouched.
        """
        from gpuscan.checkpoint.directory import CheckpointDirectory
        from gpuscan.checkpoint.store_state import KIND, save_store

        if self._checkpoints is None:
            self._checkpoints = CheckpointDirectory(directory, KIND)
        claimed_flat = [claimed.flat for claimed in self._claims()]
        claimed_words = [claimed.words for claimed in self._claims()]
        extra = {
            "seq": self._seq,
            "n_claims_freed": self._n_freed,
            "claimed_flat": np.concatenate([np.empty(0, dtype=np.uint32), *claimed_flat]),
            "claimed_words": np.concatenate([np.empty(0, dtype=self.store.fmt.dtype), *claimed_words]),
        }
        save_store(self._checkpoints, self.store, extra)
        return self._seq

    def write_part(self, place: ArrayPlace, path: str) -> tuple[dict[str, ArrayFacts], Written]:
        """Write this shard's arrays into a checkpoint of the whole store, synced (a question).

        Args:
            place: of all arrays of that checkpoint.
            path: below which those of a shard go by its number.

        Raises:
            InputError: folios are claimed that the checkpoint would know nothing of.
            RunFailedError: the directory is not seen from here, or the system refused a write.
        """
        from gpuscan.checkpoint.arrays import ArrayWriter

        if any(len(claimed.flat) for claimed in self._claims()):
            raise InputError(
                f"shard {self.spec.shard} holds claims that are not settled, and a checkpoint would know "
                "nothing of them; put them back, or settle() the store first"
            )
        writer = ArrayWriter(place)
        mine = f"{path}.{self.spec.shard}"
        try:
            if not place.directory.is_dir():  # Zarr would make it here, where the engine never looks
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            for left in place.directory.glob(f"{mine}.*"):
                remove_tree(left)  # begun by a worker that died meanwhile
            with settled():
                for name, array in page_arrays(self.store.host_arrays()).items():
                    writer.write(f"{mine}.{name}", array)
                for written in place.directory.glob(f"{mine}.*"):
                    sync(written)
        except OSError as error:
            raise RunFailedError(
                f"shard {self.spec.shard} cannot write a checkpoint to {place.directory}: {error.strerror}; "
                "every worker must see that directory and find room there; go on from the checkpoint before"
            ) from error
        return writer.facts, writer.written

    def close(self) -> None:
        """Free the store's memory, and let others write checkpoints. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None
        self.store.close()
