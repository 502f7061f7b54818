"""A request with what it names: the workload and the machine are read, nothing is built yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.errors import InputError
from gpuscan.base.given import parse_given
from gpuscan.run.request import RunRequest
from gpuscan.topology import Topology
from gpuscan.topology.contract import Host
from gpuscan.topology.resolve import resolve_machine
from gpuscan.topology.tiers import with_tiers
from gpuscan.workload.files import Workload, workload_document, workload_of

if TYPE_CHECKING:
    from gpuscan.snapshot.snapshot import Snapshot

_ALL_TICKS = 1_000_000_000
"""Rounds for which a trace is replayed: to its end."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is of.

    Attributes:
        request: what was asked for.
        workload: checked; where, document: what it was made of (``workload_document``), empty for one that a
            program loaded itself.
        topology: the machine's.
        snapshot: the captured machine, None for one that is simulated.
        notes: what a user should know of how the request was taken.
    """

    request: RunRequest
    workload: Workload
    topology: Topology
    snapshot: Snapshot | None = None
    where: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_job(request: RunRequest) -> Job:
    """Read what a request names.

    Raises:
        InputError: options contradict each other, or something is not there or not what it should be.
    """
    request = request.sorted_out()
    request.check()
    where, document, workload = read_workload(request)
    snapshot = read_machine(request)
    notes = trace_notes(request, workload)
    if snapshot is not None:
        return Job(request, workload, snapshot.topology, snapshot, where, document, notes)
    host = machine_of(workload)
    notes += tuple(f"{workload.topology.machine}: {note}" for note in host.notes)
    return Job(request, workload, with_tiers(host.topology, request.node_tiers), None, where, document, notes)


def loaded_job(
    request: RunRequest, workload: Workload, snapshot: Snapshot | None, topology: Topology | None
) -> Job:
    """Return what runs where a program has loaded it itself.

    Args:
        request: what was asked for beside that.
        workload: what to run.
        snapshot: on this captured machine.
        topology: or on this one; None = the workload's.

    Raises:
        InputError: there is no such machine.
    """
    if snapshot is not None:
        topology = snapshot.topology
    named = replace(request, workload=workload.name)
    return Job(named, workload, topology or machine_of(workload).topology, snapshot)


def read_workload(request: RunRequest) -> tuple[str, dict[str, Any], Workload]:
    """Read the workload that a request makes of one.

    Returns:
        What to call the place in a complaint, the keys, and the workload.

    Raises:
        InputError: it is not there, or an option does not fit.
    """
    where, document = workload_document(request.workload, _overrides(request))
    workload = workload_of(where, document)
    if request.producer is not None and workload.source.kind == "trace":
        raise InputError("the samples of a trace are what marks pages; leave out --producer or the trace")
    return where, document, workload


def read_machine(request: RunRequest) -> Snapshot | None:
    """Return the captured machine to run on, if there is one.

    Raises:
        InputError: it is not one, or is not divided like that.
    """
    if request.machine is None:
        return None
    from gpuscan.snapshot.snapshot import Snapshot

    snapshot = Snapshot.read(request.machine)
    share = request.cxl_share
    snapshot = snapshot if share is None else snapshot.split_cxl(share)
    return tiered(snapshot, request.node_tiers)


def tiered(snapshot: Snapshot, tiers: Mapping[int, int]) -> Snapshot:
    """Return a captured machine with some nodes in other tiers.

    Raises:
        TopologyError: there is no such node, or no such tier.
    """
    return replace(snapshot, topology=with_tiers(snapshot.topology, tiers)) if tiers else snapshot


def machine_of(workload: Workload) -> Host:
    """Return the machine that a workload is of.

    Raises:
        InputError: there is none of that name or size.
    """
    return resolve_machine(workload.topology.machine, workload.topology.memory)


def trace_notes(request: RunRequest, workload: Workload) -> tuple[str, ...]:
    """Note on which machine a trace is replayed where nobody named one."""
    if request.trace is None or request.machine is not None:
        return ()
    if any(override.startswith(("topology=", "topology.machine=")) for override in _overrides(request)):
        return ()
    return (
        "without --topology the trace is replayed on the workload's machine, "
        f"{workload.topology.machine}, and not on the one that it was recorded on",
    )


def _overrides(request: RunRequest) -> list[str]:
    """Return the options as overrides of the workload's keys; ``--set`` comes last and wins."""
    options = [] if request.trace is None else _replaying(request.trace)
    options += [f"source.given.{key}={_quoted(value)}" for key, value in parse_given(request.given).items()]
    if request.topology is not None:
        options.append(f"topology={{ machine = {_quoted(request.topology)} }}")
    for key, value in (
        ("producer.kind", request.producer),
        ("topology.memory", request.memory),
        ("ticks", request.ticks),
        ("seed", request.seed),
    ):
        if value is not None:
            options.append(f"{key}={value}")
    return [*options, *request.overrides]


def _replaying(trace: Path) -> list[str]:
    """Return what makes any workload one that replays a trace, all of it unless ``--ticks`` says less."""
    return [
        "source.kind=trace",
        f"source.trace={_quoted(trace)}",
        f"name={_quoted(trace.name or trace)}",
        "shows=recorded accesses, replayed: what would have been promoted, and what it was worth",
        f"ticks={_ALL_TICKS}",
    ]


def _quoted(name: Path | str) -> str:
    """Return a TOML string: a file may be called ``1`` or ``true``."""
    return json.dumps(str(name), ensure_ascii=False)
