"""Marks from a recorded trace, on a simulated machine whose folios are those of the trace.

The trace is read twice. :func:`survey` checks it whole and finds its pages;
:class:`TraceSource` reads it again while the run goes on, so memory is bounded by the
machine and not by the trace.

A sample names the frame that a page had when it was recorded. The machine starts with
every page in that frame, and a page that has moved since is accessed where it is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import counts, table, whole
from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.engine.stages import Produced, Sampled
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
from gpuscan.sim.captured import CapturedFrames, FrameBit
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.topology import Topology
from gpuscan.traces import UNKNOWN_CPU, Samples, Trace
from gpuscan.traces.made_up import RULE, MadeUpPages
from gpuscan.traces.samples import LEFT_OUT

_NOWHERE = -1
_ANOTHER_MACHINE = "give the machine it was recorded on with --topology, or --machine for a captured one"
_IS_PHYSICAL = (
    "addresses are taken for physical ones, but accesses where the machine has no memory are a sign of a "
    "process's own"
)
_CHUNK_PAGES = 1 << 20
"""Pages of regions that are looked at at once."""

_LEFT_OUT = {
    **{name.removeprefix("n_"): why for name, why in LEFT_OUT.items()},
    "light": "below source.min_weight",
    "rare": "accessed in a smaller share of its looks than source.min_share",
    "unknown_cpu": "from a CPU that the machine does not have",
    "outside": "outside the machine's memory",
}
"""Why samples are left out, by the name of their metric (``samples_...``)."""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What is in a trace, seen from a machine.

    Attributes:
        trace: the file.
        start_ns, end_ns: time of its first and last sample that counts.
        n_samples: that count.
        left_out: samples left out, by the reason's metric.
        pages: bool[n_pages] over the flat index, pages that are accessed.
    """

    trace: Trace
    start_ns: int
    end_ns: int
    n_samples: int
    left_out: Counter[str]
    pages: NDArray[np.bool_]

    def sentence(self) -> str:
        """Return one line about the trace for the reader of a result."""
        noun = self.trace.format.noun
        kept = (
            f"{format_number(self.n_samples, noun)} over {format_time(self.end_ns - self.start_ns)} "
            f"on {format_number(self.n_pages, 'page')}"
        )
        of_format = self.trace.format
        assumed = [of_format.assumes, RULE if of_format.is_virtual else ""]
        if of_format.outside_advice and self.left_out["outside"]:
            assumed.append(_IS_PHYSICAL)
        taken = "".join(f"; {assumption}" for assumption in assumed if assumption)
        return f"trace {self.trace.path.name}: {kept}; left out: {self.reasons() or 'none'}{taken}"

    def reasons(self) -> str:
        """Return what was left out and why, empty where nothing was."""
        return ", ".join(
            f"{count:,} {_LEFT_OUT[name]}" for name, count in sorted(self.left_out.items()) if count
        )

    @property
    def n_pages(self) -> int:
        """Pages that are accessed."""
        return int(np.count_nonzero(self.pages))


def survey(
    trace: Trace,
    topology: Topology,
    min_weight: int = 0,
    on_read: Callable[[int], None] | None = None,
    min_share: float = 0.0,
) -> Survey:
    """Read a trace from end to end.

    Args:
        trace: the file.
        topology: the machine it was recorded on.
        min_weight: samples of less weight are left out.
        on_read: see :meth:`gpuscan.traces.Trace.blocks`.
        min_share: regions accessed in a smaller share of their looks are left out.

    Raises:
        InputError: the trace is broken, or none of its samples is of this machine.
    """
    reader = _Reader(trace, topology, min_weight, min_share)
    pages = np.zeros(topology.page_map.n_pages, dtype=np.bool_)
    start_ns = end_ns = -1
    n_samples = 0
    n_pfns = int(topology.page_map.extent_pfn_end.max())
    for samples in trace.blocks(on_read):
        if trace.format.outside_advice and samples.highest_pfn >= n_pfns:
            raise InputError(
                f"{trace.path}: a region begins at {format_bytes(samples.highest_pfn * PAGE_BYTES)}, and the "
                f"memory of {topology.name!r} ends at {format_bytes(n_pfns * PAGE_BYTES)}; {_ANOTHER_MACHINE}"
                + trace.format.outside_advice
            )
        kept = reader.kept(samples)
        if not len(kept):
            continue
        start_ns = int(kept.time_ns[0]) if start_ns < 0 else start_ns
        end_ns = int(kept.time_ns[-1])
        n_samples += len(kept)
        for _, flats in page_chunks(kept, topology.page_map):
            pages[flats] = True
    found = Survey(trace, start_ns, end_ns, n_samples, reader.left_out, pages)
    if not n_samples:
        raise InputError(
            f"{trace.path}: no sample can be used on {topology.name!r} "
            f"({found.reasons() or 'the trace has none'}); {_remedy(trace, reader.left_out)}"
        )
    return found


def _remedy(trace: Trace, left_out: Counter[str]) -> str:
    """Return what to do where all samples were left out."""
    if left_out["unmapped"]:
        return "give the page table of the process that was recorded, as it was at that time"
    if left_out["outside"]:
        return _ANOTHER_MACHINE + trace.format.outside_advice
    for name, setting in (("rare", "source.min_share=0%"), ("light", "source.min_weight=0")):
        if left_out[name]:
            return f"--set {setting} keeps those"
    return "record it again" if left_out["idle"] and not left_out["unknown_cpu"] else _ANOTHER_MACHINE


def frames_of(topology: Topology, pages: NDArray[np.bool_]) -> CapturedFrames:
    """Return frames in which the pages of a trace are anonymous base pages and all other memory is free.

    What a zone does not manage belongs to the kernel, as in :class:`gpuscan.sim.frames.FrameAllocator`.

    Raises:
        InputError: none of the pages can move.
    """
    flags = np.zeros(len(pages), dtype=np.uint8)
    page_map = topology.page_map
    reserved = [zone.present_pages - zone.managed_pages for _, zone in topology.zones]
    for zone_id, (start, end) in zip(
        page_map.extent_zone.tolist(), page_map.extent_flat_ranges(), strict=True
    ):
        if topology.zones[zone_id][1].name == "Device":
            continue
        kernel = min(reserved[zone_id], end - start)
        reserved[zone_id] -= kernel
        part = slice(start + kernel, end)
        flags[part] = np.where(
            pages[part], np.uint8(FrameBit.LRU | FrameBit.SWAPBACKED), np.uint8(FrameBit.FREE)
        )
    if not (flags & FrameBit.LRU).any():
        raise InputError(
            f"all pages of the trace belong to the kernel of {topology.name!r}, so nothing could move; "
            f"{_ANOTHER_MACHINE}"
        )
    return CapturedFrames(flags, np.zeros(len(pages), dtype=np.uint8), np.zeros(len(pages), dtype=np.bool_))


def page_chunks(samples: Samples, page_map: PageMap) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (position in ``samples``, flat page), int64[n] each, for every page that is in the machine.

    Regions are cut to the machine's memory first, so one that spans terabytes of holes costs nothing.
    """
    if not len(samples) or samples.n_pages.max() == 1:
        flats = page_map.flat_of_pfn(samples.pfn)
        inside = np.flatnonzero(flats >= 0)
        yield inside, flats[inside]
        return
    starts, ends = page_map.extent_pfn_start, page_map.extent_pfn_end
    for position, (pfn, n_pages) in enumerate(
        zip(samples.pfn.tolist(), samples.n_pages.tolist(), strict=True)
    ):
        first = int(np.searchsorted(ends, pfn, side="right"))
        last = int(np.searchsorted(starts, pfn + n_pages, side="left"))
        for extent in range(first, last):
            offset = int(page_map.extent_flat_offset[extent])
            low = max(pfn, int(starts[extent])) + offset
            high = min(pfn + n_pages, int(ends[extent])) + offset
            for start in range(low, high, _CHUNK_PAGES):
                flats = np.arange(start, min(high, start + _CHUNK_PAGES), dtype=np.int64)
                yield np.full(len(flats), position, dtype=np.int64), flats


class TraceSource:
    """A :class:`gpuscan.engine.stages.Source` that replays a trace on a simulated machine.

    A sampled access asks for its page to go to the node of the CPU, or where that has no
    top-tier memory to the nearest that has; a region, whose CPU nobody knows, to the
    promotion target of the node it is on.

    Adds to the machine's metrics: ``accesses``, ``accesses_fast``, ``accesses_local`` (as
    :meth:`SimulatedMachine.run`, of the trace; a region counts once per page and snapshot);
    ``samples_unresolved`` (physical address 0), ``samples_repeated`` (another line of the same access),
    ``samples_idle`` (regions without an access), ``samples_unmapped`` (no page in the page table that was
    given), ``samples_light`` (below ``min_weight``),
    ``samples_rare`` (below ``min_share``), ``samples_unknown_cpu``, ``samples_outside`` (not in the
    machine's memory); of the pages accessed: ``pages_unmovable`` (no folio of the machine),
    ``pages_no_target``, ``pages_at_home``, ``pages_top_tier`` (with ``only_lower_tier``) and ``marks``.

    Args:
        machine: made of the frames of the trace or of a snapshot; nothing has moved on it yet.
        surveyed: the trace.
        mark: what to make of an access.
        only_lower_tier: pages on the top tier are left alone.
        min_weight, min_share: as in :func:`survey`.
    """

    def __init__(
        self,
        machine: SimulatedMachine,
        surveyed: Survey,
        *,
        mark: Literal["request", "record"] = "request",
        only_lower_tier: bool = True,
        min_weight: int = 0,
        min_share: float = 0.0,
    ) -> None:
        self._machine = machine
        self._mark = mark
        self._only_lower_tier = only_lower_tier
        self._start_ns = surveyed.start_ns
        self._knows_cpus = surveyed.trace.format.knows_cpus
        self._reader = _Reader(surveyed.trace, machine.topology, min_weight, min_share)
        self._blocks = surveyed.trace.blocks()
        self._block: Samples | None = None
        self._n_seen = 0
        self._at_start = _FoliosAtStart(machine)
        self._home = np.full(N_NODES_MAX, _NOWHERE, dtype=np.int32)
        self._promotion = np.full(N_NODES_MAX, _NOWHERE, dtype=np.int32)
        for node in machine.topology.nodes:
            home = machine.home_nid(node.nid) if node.cpus else None
            self._home[node.nid] = _NOWHERE if home is None else home
            target = node.nid if machine.top_tier[node.nid] else machine.topology.promotion_target(node.nid)
            self._promotion[node.nid] = _NOWHERE if target is None else target
        self._next_block()

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Let ``duration_ns`` pass, from ``now_ns`` on; return marks for what the trace accessed in it."""
        elapsed = self._machine.run(now_ns, duration_ns)
        counts: Counter[str] = Counter()
        produced: list[Produced] = []
        for samples in self._until(self._start_ns + now_ns + duration_ns):
            cpu_nids = self._reader.nids(samples.cpu)
            for positions, flats in page_chunks(samples, self._machine.page_map):
                produced += self._access(flats, cpu_nids[positions], counts, now_ns)
        counts.update({f"samples_{name}": count for name, count in self._reader.left_out.items()})
        self._reader.left_out.clear()
        metrics = {**elapsed.metrics, **self._no_counts(), **counts}
        if not self._knows_cpus:
            metrics.pop("accesses_local", None)
        return Sampled(tuple(produced), elapsed.events, {name: float(n) for name, n in metrics.items()})

    def finished(self) -> bool:
        """Return whether the trace has ended."""
        return self._block is None

    def _access(
        self, flats: NDArray[np.int64], cpu_nids: NDArray[np.int32], counts: Counter[str], now_ns: int
    ) -> list[Produced]:
        """Access pages by the frames they had at the start, and return what to mark."""
        folios = self._at_start.folios(flats)
        there = folios >= 0
        counts["pages_unmovable"] += int(np.count_nonzero(~there))
        folios, cpu_nids = folios[there], cpu_nids[there]
        if not len(folios):
            return []
        accesses = self._machine.access(folios, cpu_nids, now_ns)
        for name in ("accesses", "accesses_fast", "accesses_local"):
            counts[name] += int(accesses[name])
        frames = self._machine.space.frame_of[folios].astype(np.int64)
        nids = self._machine.page_map.nid_of_flat(frames)
        targets = np.where(cpu_nids == UNKNOWN_CPU, self._promotion[nids], self._home[cpu_nids])
        nowhere = targets == _NOWHERE
        at_home = targets == nids
        top_tier = self._machine.top_tier[nids] if self._only_lower_tier else np.zeros_like(nowhere)
        marked = ~nowhere & ~at_home & ~top_tier
        counts["pages_no_target"] += int(np.count_nonzero(nowhere))
        counts["pages_at_home"] += int(np.count_nonzero(~nowhere & at_home))
        counts["pages_top_tier"] += int(np.count_nonzero(~nowhere & ~at_home & top_tier))
        counts["marks"] += int(np.count_nonzero(marked))
        if not marked.any():
            return []
        pfns = self._machine.page_map.pfn_of_flat(frames[marked])
        return [Produced(self._mark, pfns, targets[marked].astype(np.int32))]

    def _until(self, end_ns: int) -> Iterator[Samples]:
        """Yield the samples before ``end_ns`` that were not yielded before."""
        while self._block is not None:
            n = int(np.searchsorted(self._block.time_ns, end_ns, side="left"))
            if n:
                yield self._block[:n]
            if not self._skip(n):
                return

    def _skip(self, n: int) -> bool:
        """Step over ``n`` samples of the block; return whether they were all of it: then the next is here."""
        self._n_seen += n
        if self._block is not None and n < len(self._block):
            self._block = self._block[n:]
            return False
        self._next_block()
        return True

    def state(self) -> dict[str, Any]:
        """Return the position in the trace, for :meth:`restore`."""
        return {"n_seen": self._n_seen, "left_out": list(self._reader.left_out.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of; only a source that has not begun can.

        Raises:
            ValueError: the trace is shorter.
        """
        found = table(state, "the trace", ("n_seen", "left_out"))
        n_seen = whole(found["n_seen"], 0, INT64_MAX, "n_seen")
        while (left := n_seen - self._n_seen) > 0:
            if self._block is None:
                raise ValueError(f"sample {n_seen}, the trace has {self._n_seen}")
            self._skip(min(left, len(self._block)))
        self._reader.left_out = Counter(counts(found["left_out"], "left_out"))

    def _next_block(self) -> None:
        self._block = None
        for samples in self._blocks:
            kept = self._reader.kept(samples)
            if len(kept):
                self._block = kept
                return

    @staticmethod
    def _no_counts() -> dict[str, float]:
        names = ["accesses", "accesses_fast", "accesses_local", *(f"samples_{name}" for name in _LEFT_OUT)]
        names += [f"pages_{name}" for name in ("unmovable", "no_target", "at_home", "top_tier")]
        return dict.fromkeys([*names, "marks"], 0.0)


class _Reader:
    """Leaves out the samples that say nothing about the machine, and counts them."""

    def __init__(self, trace: Trace, topology: Topology, min_weight: int, min_share: float) -> None:
        self._made_up = MadeUpPages(topology) if trace.format.is_virtual else None
        self._page_map = topology.page_map
        self._min_weight = min_weight
        self._min_share = min_share
        self.left_out: Counter[str] = Counter()
        n_cpus = max((cpu + 1 for node in topology.nodes for cpu in node.cpus), default=0)
        self._nid_of_cpu = np.full(n_cpus + 1, _NOWHERE, dtype=np.int32)  # the last one: all beyond
        for node in topology.nodes:
            self._nid_of_cpu[list(node.cpus)] = node.nid

    def nids(self, cpus: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the nodes of CPUs, -1 for one that is unknown."""
        last = len(self._nid_of_cpu) - 1
        return self._nid_of_cpu[np.where(cpus < 0, last, np.minimum(cpus, last))]

    def kept(self, samples: Samples) -> Samples:
        """Return the samples that count."""
        if self._made_up is not None:
            samples = self._made_up.mapped(samples)
        self.left_out.update({name.removeprefix("n_"): n for name, n in samples.left_out().items()})
        inside = self._touches_memory(samples)
        samples = self._leave_out("outside", ~inside, samples)
        unknown = (samples.cpu != UNKNOWN_CPU) & (self.nids(samples.cpu) == _NOWHERE)
        samples = self._leave_out("unknown_cpu", unknown, samples)
        if samples.share is not None:  # NaN is below nothing
            samples = self._leave_out("rare", samples.share < self._min_share, samples)
        return self._leave_out("light", samples.weight < self._min_weight, samples)

    def _leave_out(self, why: str, which: NDArray[np.bool_], samples: Samples) -> Samples:
        n = int(np.count_nonzero(which))
        self.left_out[why] += n
        return samples[~which] if n else samples

    def _touches_memory(self, samples: Samples) -> NDArray[np.bool_]:
        page_map = self._page_map
        first = np.searchsorted(page_map.extent_pfn_end, samples.pfn, side="right")
        known = first < len(page_map.extent_pfn_start)
        starts = page_map.extent_pfn_start[np.where(known, first, 0)]
        touches: NDArray[np.bool_] = known & (starts < samples.pfn + samples.n_pages)
        return touches


class _FoliosAtStart:
    """Which folio was on a frame when the machine started."""

    def __init__(self, machine: SimulatedMachine) -> None:
        # Address order within a mapping is PFN order: see gpuscan.sim.captured.
        self._mappings = [
            (
                mapping,
                machine.space.frame_of[mapping.first_folio : mapping.first_folio + mapping.n_folios].copy(),
            )
            for mapping in machine.space.mappings
        ]

    def folios(self, flats: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the folios that had these pages, -1 where there was none."""
        folios = np.full(len(flats), -1, dtype=np.int64)
        for mapping, frames in self._mappings:
            heads = (flats >> mapping.order << mapping.order).astype(frames.dtype)
            position = np.minimum(np.searchsorted(frames, heads), len(frames) - 1)
            found = frames[position] == heads
            folios[found] = mapping.first_folio + position[found]
        return folios
