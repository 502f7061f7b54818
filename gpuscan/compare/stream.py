"""Where the accesses of a comparison come from: a recording or a trace, opened anew for every design."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.compare.recording import Recording, digest_of, replaying_machine
from gpuscan.compare.start import FrameFiles
from gpuscan.engine.stages import Sampled
from gpuscan.producers.catalogue import producer_of
from gpuscan.producers.contract import Observed
from gpuscan.run.trace import trace_source
from gpuscan.sim.captured import machine_from_frames
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology
from gpuscan.traces.source import Survey, TraceSource, frames_of
from gpuscan.workload.files import Workload

_TRACE_STEPS_PER_TICK = 20
"""A trace's marks are timed to a step; a tick would be too coarse for delays."""


class FaultSource(Protocol):
    """What both gpuscan's engine and the designs' take."""

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """See :class:`gpuscan.engine.stages.Source`."""
        ...

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`gpuscan.producers.source.Producer`."""
        ...

    def finished(self) -> bool:
        """See :class:`gpuscan.engine.stages.Source`."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream on a machine of its own, at its start.

    Attributes:
        machine: in its first state.
        source: of the accesses' marks.
        digest: returns the digest of all accesses that were made.
    """

    machine: SimulatedMachine
    source: FaultSource
    digest: Callable[[], str]


class Stream(Protocol):
    """Accesses that can be made again and again; pickled into the processes that run designs."""

    @property
    def horizon_ns(self) -> int:
        """Until when they go."""
        ...

    @property
    def n_accesses(self) -> int:
        """How many there are."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of all of them."""
        ...

    @property
    def recording(self) -> Recording | None:
        """The recording, which knows of every page when it is accessed last; None for a trace."""
        ...

    def open(self) -> Opened:
        """Return a new machine and what makes the accesses on it."""
        ...

    def step_ns(self, tick_ns: int) -> int:
        """Return the steps in which the open loop's list is made: what its times are good to."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedStream:
    """The accesses of a workload's processes, see :class:`Stream`."""

    topology: Topology
    spec: MachineSpec
    recorded: Recording
    frames: FrameFiles | None = None
    """Of a captured machine."""

    @property
    def horizon_ns(self) -> int:
        """See :class:`Stream`."""
        return self.recorded.horizon_ns

    @property
    def n_accesses(self) -> int:
        """See :class:`Stream`."""
        return self.recorded.n_accesses

    @property
    def digest(self) -> str:
        """See :class:`Stream`."""
        return self.recorded.digest

    @property
    def recording(self) -> Recording:
        """See :class:`Stream`."""
        return self.recorded

    def open(self) -> Opened:
        """See :class:`Stream`."""
        machine, patterns = replaying_machine(self.topology, self.spec, self.recorded, self.frames)
        return Opened(
            machine, producer_of(machine), lambda: digest_of([pattern.state() for pattern in patterns])
        )

    def step_ns(self, tick_ns: int) -> int:
        """See :class:`Stream`: hint faults carry their own time."""
        return tick_ns


@dataclass(frozen=True, slots=True)
class TraceStream:
    """A recorded trace, see :class:`Stream` and docs/traces.md; the pages in it start where it has them.

    Attributes:
        topology, spec: of the machine.
        workload: how the trace is to be read.
        surveyed: what is in it.
        digest: SHA-256 of the file.
        frames: of a captured machine, on which the trace's pages are; None: they are all that is there.
    """

    topology: Topology
    spec: MachineSpec
    workload: Workload
    surveyed: Survey
    digest: str
    frames: FrameFiles | None = None

    @property
    def horizon_ns(self) -> int:
        """See :class:`Stream`."""
        return self.workload.ticks * self.workload.tick

    @property
    def n_accesses(self) -> int:
        """See :class:`Stream`."""
        return self.surveyed.n_samples

    @property
    def recording(self) -> None:
        """See :class:`Stream`."""
        return

    def open(self) -> Opened:
        """See :class:`Stream`.

        Raises:
            InputError: the file is not the same any more.
        """
        if file_digest(self.surveyed) != self.digest:
            raise InputError(f"{self.surveyed.trace.path} has changed during the comparison; run it again")
        pages = self.frames
        frames = frames_of(self.topology, self.surveyed.pages) if pages is None else pages.read()
        machine = machine_from_frames(self.topology, frames, self.spec)
        source = MarksAsFaults(trace_source(self.workload, machine, self.surveyed), machine)
        return Opened(machine, source, lambda: self.digest)

    def step_ns(self, tick_ns: int) -> int:
        """See :class:`Stream`."""
        return max(1, tick_ns // _TRACE_STEPS_PER_TICK)


class MarksAsFaults:
    """What a trace asks for, as the faults that designs take: each wanted, from the CPUs of its target.

    Args:
        source: of the marks.
        machine: the trace's.
    """

    def __init__(self, source: TraceSource, machine: SimulatedMachine) -> None:
        self._source = source
        self._page_map = machine.page_map
        nodes = machine.topology.nodes
        with_cpus = [node.nid for node in nodes if node.cpus]
        self._cpu_nid = np.full(max(node.nid for node in nodes) + 1, with_cpus[0], dtype=np.int32)
        self._cpu_nid[with_cpus] = with_cpus

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """See :class:`FaultSource`."""
        return self._source.sample(now_ns, duration_ns)

    def finished(self) -> bool:
        """See :class:`FaultSource`."""
        return self._source.finished()

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`FaultSource`; a trace's marks are known by the tick."""
        sampled = self._source.sample(now_ns, duration_ns)
        none = np.empty(0, dtype=np.int64)
        pfns = np.concatenate([none, *(part.pfns for part in sampled.produced)])
        nids = np.concatenate([none.astype(np.int32), *(part.nids for part in sampled.produced)])
        return Observed(
            pfns,
            self._cpu_nid[nids],
            self._page_map.nid_of_flat(self._page_map.flat_of_pfn(pfns)),
            nids,
            np.ones(len(pfns), dtype=np.bool_),
            None,
            sampled.events,
            sampled.metrics,
        )


def file_digest(surveyed: Survey) -> str:
    """Return the SHA-256 of a trace's files, one after the other."""
    digests = []
    for path in surveyed.trace.files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return ",".join(digests)


def observed(
    opened: Opened, stream: Stream, tick_ns: int, on_time: Callable[[int], None] | None
) -> Iterator[tuple[int, Observed]]:
    """Yield (end of the step, its faults) until the stream's horizon."""
    step_ns = stream.step_ns(tick_ns)
    for now_ns in range(0, stream.horizon_ns, step_ns):
        duration_ns = min(step_ns, stream.horizon_ns - now_ns)
        yield now_ns + duration_ns, opened.source.observe(now_ns, duration_ns)
        if on_time is not None:
            on_time(duration_ns)
