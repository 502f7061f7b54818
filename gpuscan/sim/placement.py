"""Where the pages of a machine's processes are when it starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.sim.address_space import AddressSpace, Mapping
from gpuscan.sim.frames import FrameAllocator
from gpuscan.sim.loops import set_file_flags
from gpuscan.sim.patterns import SyntheticPattern, stream_key
from gpuscan.sim.process import Process, check_process
from gpuscan.sim.spec import MachineSpec, ProcessSpec
from gpuscan.topology.model import DISTANCE_UNREACHABLE, Topology

_CHUNK_FOLIOS = 1 << 22
"""Folios placed at a time: keeps the 64-bit temporaries of a 1 TiB machine at tens of MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What is in a machine's memory at the start."""

    frames: FrameAllocator
    space: AddressSpace
    processes: tuple[Process, ...]


def place(topology: Topology, spec: MachineSpec) -> Contents:
    """Map every page of every process, share by share in address order, as ``spec`` says.

    A node that is down to its low watermarks spills over to the next nearest; when all
    are, allocations go on down to the min watermarks.

    Raises:
        InputError: the processes need more memory than there is, or make no sense on
            this machine.
    """
    if not spec.processes:
        raise InputError("the machine runs nothing: give at least one process")
    mappings: list[Mapping] = []
    n_folios = 0
    for wanted in spec.processes:
        check_process(wanted, topology)
        mappings.append(Mapping(n_folios, wanted.n_pages >> wanted.order, wanted.order))
        n_folios += mappings[-1].n_folios
    contents = Contents(
        FrameAllocator(topology),
        AddressSpace(tuple(mappings), topology.page_map.n_pages),
        tuple(
            Process(
                wanted,
                (mapping,),
                SyntheticPattern(wanted.pattern, mapping.n_folios, stream_key(spec.seed, 0, index)),
                index,
                len(spec.processes),
            )
            for index, (wanted, mapping) in enumerate(zip(spec.processes, mappings, strict=True))
        ),
    )
    for index, process in enumerate(contents.processes):
        _place_process(topology, contents, process, stream_key(spec.seed, 1, index))
    return contents


def _place_process(topology: Topology, contents: Contents, process: Process, key: np.uint64) -> None:
    spec, mapping = process.spec, process.mappings[0]
    done, share_so_far = 0, 0.0
    for position, (nid, share) in enumerate(spec.placement):
        share_so_far += share
        last = position == len(spec.placement) - 1
        until = mapping.n_folios if last else min(mapping.n_folios, round(share_so_far * mapping.n_folios))
        chain = spill_chain(topology, nid)
        for mark in ("low", "min"):
            for candidate in chain:
                while done < until:
                    wanted = min(_CHUNK_FOLIOS, until - done)
                    found = contents.frames.alloc(wanted, candidate, mapping.order, (mark,))
                    contents.space.map(mapping.first_folio + done, found)
                    if spec.file_share:
                        shares = (float(spec.file_share), float(spec.dirty_share), float(spec.exec_share))
                        slots = contents.space.slots_of(found)
                        set_file_flags(slots, done, contents.space.flags, key, *shares)
                    done += len(found)
                    if len(found) < wanted:
                        break
        if done < until:
            raise InputError(_does_not_fit(topology, spec, mapping, done))
    if done < mapping.n_folios:
        raise InputError(f"process {spec.name!r} is placed on no node; give its placement")


def spill_chain(topology: Topology, nid: int) -> list[int]:
    """Return the nodes an allocation for ``nid`` tries: itself, then the reachable others, nearest first."""
    others = [node.nid for node in topology.nodes if node.nid != nid]
    distances = sorted((topology.distance_between(nid, other), other) for other in others)
    return [nid, *(other for distance, other in distances if distance != DISTANCE_UNREACHABLE)]


def _does_not_fit(topology: Topology, spec: ProcessSpec, mapping: Mapping, done: int) -> str:
    missing = format_bytes(((mapping.n_folios - done) << mapping.order) * PAGE_BYTES)
    return (
        f"process {spec.name!r} does not fit machine {topology.name!r}: {missing} of its "
        f"{format_bytes(mapping.n_pages * PAGE_BYTES)} find no free folio of order {mapping.order}; "
        "give the machine more memory or the processes less"
    )
