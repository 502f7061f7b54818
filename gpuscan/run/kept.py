"""What a checkpoint keeps of a request, and how a run goes on from that.

In ``state.json`` this is the table ``request``: each field of :class:`gpuscan.run.request.RunRequest` that is
kept, under its name, and what the others had come to: the workload with all overrides, the topology, digests.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.described import Described, described_fields
from gpuscan.base.documents import flag, shown, table, text, whole
from gpuscan.base.errors import InputError
from gpuscan.files.chunks import said
from gpuscan.files.reading import UnfitError, open_file
from gpuscan.run.job import Job, read_machine
from gpuscan.run.request import RunRequest
from gpuscan.topology.serialize import topology_from_dict, topology_to_dict
from gpuscan.workload.files import Workload, with_paths, workload_of

if TYPE_CHECKING:
    from gpuscan.snapshot.snapshot import Snapshot

_PROCESSES_MAX = 1 << 12
"""Of threads and workers that a checkpoint may ask for."""


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """What was asked for, enough to build the same scenario again.

    Attributes:
        request: the options that are kept; the others have come to what follows.
        where: what to call the workload's file in a complaint.
        workload: its keys, overrides applied.
        topology: of the machine, as :func:`gpuscan.topology.serialize.topology_to_dict`.
        inputs: SHA-256 of what is read again, by what it is.
        gpuscan: the version that was asked.

    In a checkpoint this is whoever's who made that: ``force``, ``cluster`` and ``shard_dir`` were for the
    run that was asked, and are not taken from there (docs/checkpoint.md, *Somebody else's checkpoint*).
    """

    request: RunRequest
    where: str
    workload: dict[str, Any]
    topology: dict[str, Any]
    inputs: dict[str, str]
    gpuscan: str

    def document(self) -> dict[str, Any]:
        """Return it as a checkpoint has it; files by their absolute names."""
        kept = {each.name: _plain(getattr(self.request, each.name)) for each in _kept_fields()}
        return kept | {name: getattr(self, name) for name in _COME_TO}

    @classmethod
    def of(cls, document: Any) -> KeptRequest:
        """Return what a checkpoint says was asked for, each value of its type.

        Raises:
            ValueError: one is not.
        """
        kept = list(_kept_fields())
        found = table(document, "the request", (*(each.name for each in kept), *_COME_TO))
        for name in ("where", "gpuscan"):
            text(found[name], name)
        for name in ("workload", "topology", "inputs"):
            table(found[name], name)
        for what, sha256 in found["inputs"].items():
            text(what, "an input")
            text(sha256, "the SHA-256 of an input", 64)
        request = RunRequest(**{each.name: _taken(each, found[each.name]) for each in kept})
        return cls(request, **{name: found[name] for name in _COME_TO})

    def job(self, changes: RunRequest) -> Job:
        """Return what goes on, of the same inputs.

        Args:
            changes: what is said anew; what is as by default was not said.

        Raises:
            InputError: it is to be where only the checkpoint says so, or an input has changed.
        """
        request = self._changed(changes)
        request.check_shards()
        workload = workload_of(self.where, self.workload)
        snapshot = read_machine(request)
        found = inputs_of(workload, snapshot)
        for what, digest in self.inputs.items():
            if found.get(what) != digest:
                raise InputError(f"{what} was changed since the run began; bring it back, or run again")
        topology = topology_from_dict(self.topology)
        if snapshot is not None:  # its nodes may have been put into other tiers
            snapshot = replace(snapshot, topology=topology)
        return Job(request, workload, topology, snapshot, self.where, self.workload)

    def _changed(self, changes: RunRequest) -> RunRequest:
        """Return the request with what is said anew, without what is not to be taken from a checkpoint."""
        asked, anew = self.request, RunRequest()
        said_anew = {
            each.name: getattr(changes, each.name)
            for each in described_fields(RunRequest)
            if each.option.again is not None and getattr(changes, each.name) != each.default
        }
        if said_anew.keys() & {"workers", "cluster"}:
            asked = replace(asked, workers=None)
        else:
            self._check_named(changes)
        trusted = {each.name: getattr(asked, each.name) for each in _kept_fields() if each.option.trusted}
        found = replace(anew, **{**trusted, **said_anew})
        return replace(found, workers=found.workers or None)

    def _check_named(self, changes: RunRequest) -> None:
        """Refuse to connect or to write where only the checkpoint says so: it may be anybody's.

        Raises:
            InputError: it would.
        """
        request = self.request
        if request.cluster is not None:
            raise InputError(
                f"the run was on the cluster {request.cluster}, and a checkpoint does not say whom to trust; "
                f"give --cluster {request.cluster} to go on there, or --workers 0 to go on here"
            )
        if request.shard_dir is not None and changes.shard_dir is None:
            raise InputError(
                f"the run kept its shards in {request.shard_dir}; give --shard-dir {request.shard_dir} to go "
                "on there, or --workers 0 to go on without"
            )


_COME_TO = tuple(each.name for each in fields(KeptRequest) if each.name != "request")
"""What a checkpoint has beside the fields of the request."""


def kept_request(job: Job, version: str) -> KeptRequest:
    """Return what a checkpoint keeps of a job.

    Args:
        job: what runs.
        version: of gpuscan.

    Raises:
        InputError: an input cannot be read.
    """
    return KeptRequest(
        job.request.with_pace(),
        job.where,
        with_paths(job.document, lambda named: Path(_place(Path(named)))),
        topology_to_dict(job.topology),
        inputs_of(job.workload, job.snapshot),
        version,
    )


def _kept_fields() -> list[Described]:
    return [each for each in described_fields(RunRequest) if each.option.kept]


def _plain(value: Any) -> Any:
    return _place(value) if isinstance(value, Path) else value


def _place(path: Path) -> str:
    """Return an absolute name that does not go through the working directory, which may be gone by then."""
    return str(path.parent.resolve() / path.name)


def _taken(each: Described, value: Any) -> Any:
    """Return the value of a field, from a checkpoint.

    Raises:
        ValueError: it is none.
    """
    option = each.option
    if value is None and each.default is None:
        return None
    if each.default is False:
        return flag(value, each.name)
    if option.choices:
        if value not in option.choices:
            raise ValueError(f"{each.name} is {shown(value)}, which is none")
        return value
    if option.low is not None:
        low = option.low if option.again is None or option.again.low is None else option.again.low
        return whole(value, low, _PROCESSES_MAX, each.name)
    found = text(value, each.name)
    return Path(found) if "Path" in str(each.type) else found


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.fdopen(open_file(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (UnfitError, OSError) as error:
        raise InputError(f"{said(error, path)}; check the file") from error


def inputs_of(workload: Workload, snapshot: Snapshot | None) -> dict[str, str]:
    """Return the SHA-256 of what a run reads, by what it is."""
    inputs = {}
    if workload.source.kind == "trace":
        source = workload.source
        for what, name in (("trace", source.trace), ("page table", source.given.get("pages"))):
            if name is not None:
                path = Path(name).parent.resolve() / Path(name).name
                inputs[f"the {what} {path}"] = digest_of_file(path)
    if snapshot is not None:
        digest = hashlib.sha256(snapshot.flags.data)
        digest.update(snapshot.mapcounts.data)
        inputs["the captured machine"] = digest.hexdigest()
    return inputs
