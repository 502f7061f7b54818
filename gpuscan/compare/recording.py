"""The accesses of a workload, drawn once into files and replayed to every machine of a comparison.

What is recorded is who touches which virtual page: access k of a process is the k-th entry of its
file, made at ``k / accesses_per_s`` from the CPUs that the workload says. Frames are not in it,
so it does not change with what a design moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.compare.start import FrameFiles, contents_of
from gpuscan.files.writing import create, writing_to
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.process import Process
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology

_CHUNK_ACCESSES = 1 << 20


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded accesses, as files: what a worker process is given.

    Attributes:
        directory: of the files: ``accesses-<process>.npy`` (uint32 or uint64[n], folio from 0 in the
            process) and ``last-<process>.npy`` (as wide, per folio its last access + 1, 0: none).
        horizon_ns: accesses up to this moment are in it.
        n_accesses: of all processes.
        digest: SHA-256 over the files' contents, process after process.
    """

    directory: Path
    horizon_ns: int
    n_accesses: int
    digest: str

    def accesses(self, index: int) -> NDArray[Any]:
        """Return the accesses of a process, mapped read-only."""
        mapped: NDArray[Any] = np.load(_file(self.directory, "accesses", index), mmap_mode="r")
        return mapped

    def last_access(self, index: int) -> NDArray[Any]:
        """Return per folio of a process the number of its last access + 1, mapped read-only."""
        mapped: NDArray[Any] = np.load(_file(self.directory, "last", index), mmap_mode="r")
        return mapped


class RecordedPattern:
    """A :class:`gpuscan.sim.patterns.Pattern` that replays a recording and hashes what it hands out.

    Args:
        recorded: unsigned[n], read-only.
    """

    def __init__(self, recorded: NDArray[Any]) -> None:
        self._recorded = recorded
        self._hash = hashlib.sha256()

    def draw(self, out: NDArray[np.int64], first_access: int, now_ns: int) -> None:
        """See :class:`gpuscan.sim.patterns.Pattern`; a draw beyond the recording fails."""
        drawn = self._recorded[first_access : first_access + len(out)]
        out[:] = drawn
        self._hash.update(drawn.tobytes())

    def state(self) -> bytes:
        """Return the SHA-256 of all that was handed out, in the order in which it was."""
        return self._hash.digest()


def record_accesses(
    topology: Topology,
    spec: MachineSpec,
    horizon_ns: int,
    directory: Path,
    on_recorded: Callable[[int], None] | None = None,
    frames: FrameFiles | None = None,
) -> Recording:
    """Draw all accesses before ``horizon_ns``.

    Args:
        topology, spec: the machine.
        horizon_ns: how long.
        directory: where to write; it must exist.
        on_recorded: called with accesses as they are written.
        frames: of a captured machine.

    Raises:
        RunFailedError: they cannot be written.
    """
    processes = contents_of(topology, spec, frames)[1].processes
    digests = []
    n_total = 0
    for index, process in enumerate(processes):
        n_accesses = process.accesses_until(horizon_ns)
        n_total += n_accesses
        dtype = np.dtype(np.uint32 if max(n_accesses, process.n_folios) < 1 << 32 else np.uint64)
        path, digest = _file(directory, "accesses", index), hashlib.sha256()
        last = np.zeros(process.n_folios, dtype=dtype)
        with writing_to(path), create(path) as file:
            # Not through a mapping: on a full disk that ends in SIGBUS.
            header = {"descr": dtype.str, "fortran_order": False, "shape": (n_accesses,)}
            np.lib.format.write_array_header_1_0(file, header)
            for first, chunk in _drawn(process, horizon_ns):
                narrow = chunk.astype(dtype)
                file.write(narrow.data)
                last[chunk] = np.arange(first + 1, first + len(chunk) + 1, dtype=dtype)
                digest.update(narrow.tobytes())
                if on_recorded is not None:
                    on_recorded(len(chunk))
            with create(_file(directory, "last", index)) as beside:
                np.save(beside, last)
        digests.append(digest.digest())
    return Recording(directory, horizon_ns, n_total, digest_of(digests))


def digest_of(states: Sequence[bytes]) -> str:
    """Return one digest of the processes' digests, in their order."""
    return hashlib.sha256(b"".join(states)).hexdigest()


def replaying_machine(
    topology: Topology, spec: MachineSpec, recording: Recording, frames: FrameFiles | None = None
) -> tuple[SimulatedMachine, list[RecordedPattern]]:
    """Return a new machine whose processes make the recorded accesses, and their patterns."""
    spec, contents = contents_of(topology, spec, frames)
    patterns = [RecordedPattern(recording.accesses(index)) for index in range(len(contents.processes))]
    processes = tuple(
        replace(process, pattern=pattern)
        for process, pattern in zip(contents.processes, patterns, strict=True)
    )
    return SimulatedMachine(topology, spec, replace(contents, processes=processes)), patterns


def _drawn(process: Process, horizon_ns: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (first access, int64[n] folios) of a process, cut where its hot set moves."""
    shift_ns = process.spec.pattern.shift_every_ns or horizon_ns
    for start_ns in range(0, horizon_ns, max(1, shift_ns)):
        first = process.accesses_until(start_ns)
        end = process.accesses_until(min(horizon_ns, start_ns + shift_ns))
        for at in range(first, end, _CHUNK_ACCESSES):
            out = np.empty(min(_CHUNK_ACCESSES, end - at), dtype=np.int64)
            process.pattern.draw(out, at, start_ns)
            yield at, out


def _file(directory: Path, what: str, index: int) -> Path:
    return directory / f"{what}-{index}.npy"
