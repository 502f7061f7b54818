"""A store whose pages are in shards: what the engine is told is what a single store would tell it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import flag, has_methods, instance, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.api import (
    N_OUTCOMES,
    N_RELEASE_OUTCOMES,
    Budget,
    Cutoffs,
    Outcome,
    RecordParams,
    ReleaseOutcome,
    ScanRequest,
)
from gpuscan.kernels.budgets import Limits, cut_keys, spend
from gpuscan.kernels.registry import Device
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import WORD_PAGES
from gpuscan.shards.arrays import ArraysOfShards
from gpuscan.shards.group import LOG_BYTES, ShardGroup
from gpuscan.shards.messages import Op, Reply, ShardScan, ShardSpec
from gpuscan.shards.ordering import plan_of_shards
from gpuscan.shards.partition import Partition
from gpuscan.shards.transport import InProcessTransport, Transport
from gpuscan.store.contract import NO_OUTCOMES, PageStore
from gpuscan.store.layout import TOPOLOGY_REMEDY, layout_of
from gpuscan.store.plan import Plan
from gpuscan.store.state import check_fits, overlapping, state_of
from gpuscan.topology import Topology


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a run is divided.

    Attributes:
        transport: where shards are.
        n_shards: how many.
        directory: for checkpoints and logs, the same one for this process and all workers; None = the
            loss of a worker ends the run.
        n_threads: of the CPU backend of each shard unless told otherwise; None = all CPUs of its worker.
    """

    transport: Transport
    n_shards: int
    directory: Path | None
    n_threads: int | None = None


_QUEUED_FOLIOS = 1 << 22
"""Folios that are admitted in one message: building a machine admits all of its memory."""


class ShardedStore(PageStore):
    """Page records of a machine, in shards. One thread uses it.

    Args:
        topology, record_format_name, device, fixed_target, large_folios: as for
            :class:`gpuscan.store.single.Store`.
        n_shards: parts, of whole sections, as even as can be.
        transport: where they are; in this process by default. Closed with the store.
        n_threads: worker threads of the CPU backend, for each shard.
        cpu_takes_over, on_failure: see :class:`gpuscan.shards.group.ShardGroup`.

    Raises:
        InputError: fewer sections than shards.
        DeviceError: a device is not there or too small.
        RunFailedError: there is no place for a shard.
    """

    def __init__(
        self,
        topology: Topology,
        record_format_name: str = "rfc",
        device: Device = "auto",
        *,
        n_shards: int,
        transport: Transport | None = None,
        fixed_target: int | None = None,
        large_folios: bool = False,
        n_threads: int | None = None,
        cpu_takes_over: bool = False,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        instance("a store's topology", topology, Topology, TOPOLOGY_REMEDY)
        layout = layout_of(topology, topology.page_map, record_format_name, fixed_target, large_folios)
        n_shards = whole("a sharded store's n_shards", n_shards, 1)
        instance("a sharded store's device", device, str, "give its name; every shard opens its own")
        flag("a sharded store's cpu_takes_over", cpu_takes_over)
        if transport is not None:
            has_methods(
                "a sharded store's transport", transport, ("create", "close"), "leave it out, or give one"
            )
        if n_threads is not None:
            whole("a sharded store's n_threads", n_threads, 1)
        super().__init__(topology, layout)
        self.partition = Partition.even(self.page_map, n_shards)
        edges = self.partition.section_edges.tolist()
        specs = [
            ShardSpec(
                shard,
                n_shards,
                topology,
                edges[shard],
                edges[shard + 1],
                record_format_name,
                device,
                fixed_target,
                large_folios,
                n_threads,
            )
            for shard in range(n_shards)
        ]
        self.group = ShardGroup(
            transport or InProcessTransport(), specs, cpu_takes_over=cpu_takes_over, on_failure=on_failure
        )
        self._active = np.zeros(N_NODES_MAX, dtype=np.uint8)
        self._n_ready = np.zeros(n_shards, dtype=np.int64)
        self._n_admitted = 0
        self._ranked: Cutoffs | None = None
        self._round: object = None
        self._left_pages = np.zeros(n_shards, dtype=np.int64)
        try:
            names, reasons = zip(*self.group.ask(Op("describe")), strict=True)
        except BaseException:
            self.close()
            raise
        self._device_name = names[0] if len(set(names)) == 1 else "mixed"
        self.device_reason = f"{reasons[0]}; {n_shards} shards {self.group.transport.describe()}"

    @property
    def device_name(self) -> str:
        """Return the name of the backend, ``mixed`` where shards have several."""
        return f"{self._device_name}, then cpu" if self.group.device_failures else self._device_name

    @property
    def n_shards(self) -> int:
        """How many parts."""
        return self.partition.n_shards

    def network(self) -> tuple[int, int]:
        """Return how many calls and bytes went over a network so far, both ways."""
        traffic = self.group.transport.traffic
        return traffic.n_calls, traffic.n_bytes

    def device_failures(self) -> tuple[str, ...]:
        """Return one sentence for each device that failed and was replaced so far."""
        return tuple(self.group.device_failures)

    def recovery_s(self) -> list[float]:
        """Return how long each shard that was lost took to be where it was, in seconds."""
        return [recovery.took_s for recovery in self.group.recoveries]

    def warm(self, *, record: bool) -> None:
        """Load, or compile once, what a run calls, in every shard."""
        self.group.ask(Op("warm", (record,)))

    def protect(self, directory: Path, log_bytes: int = LOG_BYTES) -> None:
        """Survive the loss of workers from now on; see :meth:`gpuscan.shards.group.ShardGroup.protect`."""
        self._flush()
        self.group.protect(directory, log_bytes)

    def take_over(self, directory: Path, log_bytes: int = LOG_BYTES) -> dict[ReleaseOutcome, int]:
        """Go on with the shards of an engine that died, from what :meth:`protect` kept; for a new store.

        For a machine that went on meanwhile, and did not go back in time as a checkpoint's does: what was
        migrated stays so. Claims that the engine had not settled go back; cursor and ties begin anew.

        Args:
            directory, log_bytes: see :meth:`gpuscan.shards.group.ShardGroup.take_over`.

        Returns:
            How many of these claims are READY again, were superseded by a newer request, or are of folios
            whose old frames were freed: they had been migrated.
        """
        self.group.take_over(directory, log_bytes)
        total = np.zeros(N_RELEASE_OUTCOMES, dtype=np.int64)
        for (counts,) in self._tell({shard: [Op("put_back")] for shard in range(self.n_shards)}).values():
            total += counts
        self._n_ready[:] = self.group.ask(Op("count_ready"))
        return {outcome: int(total[outcome]) for outcome in ReleaseOutcome}

    # Producers

    def _request(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        picked = self.partition.by_pfn(pfn)
        wanted = len(outcomes) > 0
        ops: dict[int, list[Op]] = {}
        for shard, mine in enumerate(picked):
            pfns = pfn[mine]
            if len(pfns):
                ops[shard] = [Op("request", (pfns, nid[mine], outcomes[mine] if wanted else outcomes))]
        total = np.zeros(N_OUTCOMES, dtype=np.int64)
        for shard, ((counts, ended),) in self._change(ops).items():
            self._n_ready[shard] += counts[Outcome.ACCEPTED]
            total += counts
            if wanted:
                outcomes[picked[shard]] = ended
        return total

    def _record(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], params: RecordParams
    ) -> NDArray[np.int64]:
        ops: dict[int, list[Op]] = {}
        for shard, mine in enumerate(self.partition.by_pfn(pfn)):
            pfns = pfn[mine]
            if len(pfns):
                ops[shard] = [Op("record", (pfns, nid[mine], params))]
        total = np.zeros(N_OUTCOMES, dtype=np.int64)
        for shard, (counts,) in self._change(ops).items():
            self._n_ready[shard] += counts[Outcome.ACCEPTED]
            total += counts
        return total

    def _release(self, flats: NDArray[np.int64], words: NDArray[Any]) -> NDArray[np.int64]:
        ops: dict[int, list[Op]] = {}
        for shard, mine, local in self._by_shard(flats):
            ops[shard] = [Op("release", (local, words[mine]))]
        total = np.zeros(N_RELEASE_OUTCOMES, dtype=np.int64)
        for shard, (counts,) in self._change(ops).items():
            self._n_ready[shard] += counts[ReleaseOutcome.RESTORED]
            total += counts
        return total

    # Upkeep

    def _admit(self, flats: NDArray[np.int64], order: int) -> None:
        """Tell the shards with what these are told next."""
        for shard, _, local in self._by_shard(flats):
            self.group.queue(shard, Op("admit", (local, order)))
        self._n_admitted += len(flats)
        if self._n_admitted >= _QUEUED_FOLIOS:
            self._flush()

    def _forget(self, flats: NDArray[np.int64]) -> int:
        ops: dict[int, list[Op]] = {}
        for shard, _, local in self._by_shard(flats):
            ops[shard] = [Op("forget", (local,))]
        total = 0
        for shard, (n_ready,) in self._change(ops).items():
            self._n_ready[shard] -= n_ready
            total += n_ready
        return total

    def _load_pages(self, eligible_bits: NDArray[np.uint64], order: NDArray[np.uint8] | None) -> None:
        ops = {}
        for shard in range(self.n_shards):
            lo, hi = self.partition.bounds(shard)
            orders = None if order is None else order[lo:hi]
            ops[shard] = [Op("load_pages", (eligible_bits[lo // WORD_PAGES : hi // WORD_PAGES], orders))]
        self._change(ops)

    def count_ready(self) -> int:
        """Return how many folios are READY now."""
        return sum(self.group.ask(Op("count_ready")))

    def take_active(self) -> NDArray[np.uint8]:
        """Return uint8[1024] of nodes on which pages became READY since the last call, and clear it."""
        taken, self._active = self._active, np.zeros(N_NODES_MAX, dtype=np.uint8)
        return taken

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore` of any store of the machine.

        The arrays stay at the shards, which write them themselves (a state to be kept in a
        :class:`gpuscan.checkpoint.directory.CheckpointDirectory` that every worker sees); they refuse
        with an InputError where claims are not settled (:meth:`settle`).
        """
        edges = self.partition.section_edges.tolist()
        return state_of(self, self._ended_ahead, self._active, edges, ArraysOfShards(self.group))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, or that of a store that is divided otherwise.

        Raises:
            CheckpointError: a worker cannot read the arrays.
            ValueError: that was a store of another format, target or size; nothing was changed.
        """
        check_fits(self, state, self.page_map.n_sections)
        edges = self.partition.section_edges.tolist()
        ops: dict[int, list[Op]] = {}
        for shard in range(self.n_shards):
            parts = overlapping(state, edges[shard], edges[shard + 1])
            ops[shard] = [Op("restore", ({**state, "cursor": 0, "active_nids": [], "parts": parts},))]
        for shard, (n_ready,) in self._tell(ops).items():
            self._n_ready[shard] = n_ready
        self._active[:] = 0
        self._active[state["active_nids"]] = 1
        self._restore_rounds(state)
        self.group.begin_logs_anew()

    def close(self) -> None:
        """Free the shards and close the transport. Idempotent."""
        self.group.close()

    # The scan

    def _rank(self, budget: Budget, node_mask: NDArray[np.uint8] | None) -> Cutoffs:
        """Count at the shards, cut for all of them, and leave each its part of the quotas."""
        self._end_ranking()
        partition, n_targets = self.partition, self.layout.n_targets
        ops: dict[int, list[Op]] = {}
        for shard in range(self.n_shards):
            resume_flat = self._local(budget.resume_flat, shard)
            ops[shard] = [Op("count_keys", (budget.limit_pages, resume_flat, budget.now, node_mask))]
        counted = self._tell(ops)
        pages_of_key = np.zeros((n_targets, self.fmt.n_keys), dtype=np.int64)
        seen_pages = np.zeros(n_targets, dtype=np.int64)
        for ((targets, pages, seen),) in counted.values():
            pages_of_key[targets] += pages
            seen_pages += seen
        cut_key = np.where(budget.limit_pages < 0, -1, cut_keys(pages_of_key, budget.limit_pages)).astype(
            np.int32
        )
        cut = self._tell({shard: [Op("cut", (cut_key,))] for shard in range(self.n_shards)})
        quotas = np.array([sums for (sums,) in cut.values()], dtype=np.int64)  # shard, kind, target
        above, ties_from, ties_below = spend(quotas[:, 0], quotas[:, 1], quotas[:, 2], budget.limit_pages)
        for shard in range(self.n_shards):
            limits = Limits(above[shard], ties_from[shard], ties_below[shard])
            self.group.queue(shard, Op("limit", (limits,)))
        self._left_pages = (above + ties_from + ties_below).sum(axis=1)
        self._ranked = Cutoffs(
            now=budget.now,
            chunk_edges=partition.flat_edges,
            cut_key=cut_key,
            above_pages=above,
            tie_pages_from=ties_from,
            tie_pages_below=ties_below,
            resume_flat=budget.resume_flat,
            seen_pages=seen_pages,
        )
        return self._ranked

    def _scan_range(self, request: ScanRequest) -> Plan:
        """Scan shards side by side as far as what is READY in them fits the plan for certain.

        One that may not fit is scanned alone, for what is left.

        Raises:
            ArgumentError: the cut-offs are not those of the last :meth:`rank`.
        """
        if request.cuts is not None and request.cuts is not self._ranked:
            raise ArgumentError(
                "scan: the cut-offs are not of the last ranking, and shards hold no others; rank() again"
            )
        parts: dict[int, ShardScan] = {}
        ranges = {shard: self._clipped(request, shard) for shard in range(self.n_shards)}
        todo = [shard for shard, (lo, hi) in ranges.items() if lo < hi]
        room, cursor = request.capacity, request.hi
        while todo:
            sure = int(np.searchsorted(np.cumsum(self._at_most_ready(request)[todo]), room, side="right"))
            side_by_side, todo = todo[: max(sure, 1)], todo[max(sure, 1) :]
            # What fits for certain needs no limit, and no count to keep it.
            capacity = room if sure == 0 else self.n_pages
            found = self._scan_shards(request, side_by_side, capacity)
            parts |= found
            room -= sum(scan.n_claimed for scan in found.values())
            last = side_by_side[-1]
            stopped = found[last].cursor + self._first_flat(last)
            if stopped < ranges[last][1]:
                cursor = stopped
                break
        first_flats = {shard: self._first_flat(shard) for shard in parts}
        return plan_of_shards(self.layout, parts, first_flats, cursor)

    def _drain(
        self, request: ScanRequest, limits: NDArray[np.int64] | None, now_jiffies: int
    ) -> Generator[Plan, None, None]:
        """Go around; what was handed out is settled afterwards."""
        self._end_ranking()
        self._round = this_round = object()
        try:
            yield from super()._drain(request, limits, now_jiffies)
        finally:
            if self._round is this_round:
                self._ranked = self._round = None
            if self._round is None:  # else this one stood still and another goes on, which settles at its end
                self.settle()
        self.group.at_rest()

    def _scan_on(self, request: ScanRequest) -> Plan:
        """Settle earlier plans, and scan from the cursor on; a scan without cut-offs gives them up."""
        self._door.range("scan", request.lo, request.hi)
        self.settle()
        if request.cuts is None:
            self._end_ranking()
        return super()._scan_on(request)

    def settle(self) -> None:
        """Take over what was claimed so far: what becomes of it is the caller's to know.

        :meth:`take_over` puts back what was not settled, and :meth:`state` refuses it. The next :meth:`scan`
        does this, and the end of a :meth:`drain`.
        """
        for shard in range(self.n_shards):
            self.group.queue(shard, Op("settle"))

    def hold(self, flats: NDArray[np.int64], words: NDArray[Any]) -> None:
        """Name claimed folios that wait for a retry: :meth:`take_over` puts these back too.

        They count until the next :meth:`settle`, so after each :meth:`drain` those that wait then are named.

        Args:
            flats, words: as for :meth:`release`.
        """
        flats, words, _ = self._door.arrays("release", flats, words, NO_OUTCOMES)
        for shard, mine, local in self._by_shard(flats):
            self.group.queue(shard, Op("hold", (local, words[mine])))

    def _end_ranking(self) -> None:
        """Give up the cut-offs, which no checkpoint of a shard keeps: logs may be cut again."""
        self._ranked = None
        self.group.at_rest()

    def _at_most_ready(self, request: ScanRequest) -> NDArray[np.int64]:
        """Return int64[n_shards]: more folios than these cannot be claimed in a shard."""
        if request.cuts is None or bool((request.cuts.cut_key < 0).any()):
            return self._n_ready
        return np.minimum(self._n_ready, self._left_pages)

    def _scan_shards(self, request: ScanRequest, shards: list[int], capacity: int) -> dict[int, ShardScan]:
        ops: dict[int, list[Op]] = {}
        for shard in shards:
            lo, hi = self._clipped(request, shard)
            first = self._first_flat(shard)
            budgeted = request.cuts is not None
            args = (lo - first, hi - first, capacity, request.path, request.node_mask, budgeted)
            ops[shard] = [Op("scan", args)]
        found: dict[int, ShardScan] = {shard: scan for shard, (scan,) in self._tell(ops).items()}
        for shard, scan in found.items():
            self._n_ready[shard] -= scan.n_claimed - scan.n_superseded
            self._left_pages[shard] -= scan.n_claimed
        return found

    def _by_shard(
        self, flats: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64] | slice, NDArray[np.int64]]]:
        """Yield every shard that has some of ``flats``, which are its, and as flat pages of the shard."""
        for shard, mine in enumerate(self.partition.by_flat(flats)):
            local = flats[mine] - self._first_flat(shard)
            if len(local):
                yield shard, mine, local

    def _first_flat(self, shard: int) -> int:
        return self.partition.bounds(shard)[0]

    def _clipped(self, request: ScanRequest, shard: int) -> tuple[int, int]:
        """Return the part of a range that is a shard's."""
        lo, hi = self.partition.bounds(shard)
        return max(request.lo, lo), min(request.hi, hi)

    def _local(self, flats: NDArray[np.int64], shard: int) -> NDArray[np.int64]:
        """Return flat pages as a shard counts them: 0 for those before it, its end for those after it."""
        lo, hi = self.partition.bounds(shard)
        return np.clip(flats, lo, hi) - lo

    def _flush(self) -> None:
        self._n_admitted = 0
        self._change({shard: [] for shard in range(self.n_shards)})

    def _change(self, ops: Mapping[int, list[Op]]) -> dict[int, tuple[Any, ...]]:
        """Let shards do something that is no part of a scan; see :meth:`_tell`."""
        results = self._tell(ops)
        if self._ranked is None:
            self.group.at_rest()
        return results

    def _tell(self, ops: Mapping[int, list[Op]]) -> dict[int, tuple[Any, ...]]:
        """Let shards do something; return the results, and note which nodes they made active."""
        replies: dict[int, Reply] = self.group.tell(ops)
        for reply in replies.values():
            self._active[list(reply.active_nids)] = 1
        return {shard: reply.results for shard, reply in replies.items()}
