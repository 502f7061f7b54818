"""``gpuscan run``: what to run, where, and what to keep of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.base.program import PROGRAM

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.snapshot.snapshot import Snapshot

DEFAULT_WORKLOAD = "cxl-promote"
DEFAULT_EVERY = "1min"


class ProducerChoice(StrEnum):
    """What turns accesses into marks: the kinds of gpuscan.workload.model.Producer."""

    HINT_FAULTS = "hint-faults"
    SAMPLER = "sampler"
    A_BIT = "a-bit"
    HOTNESS_UNIT = "hotness-unit"


class DeviceChoice(StrEnum):
    """Where the scan runs."""

    AUTO = "auto"
    CPU = "cpu"
    REFERENCE = "reference"
    CUDA = "cuda"


def run(
    workload: Annotated[
        str, typer.Argument(help="A built-in workload (gpuscan workloads), a TOML file, or a snapshot.")
    ] = DEFAULT_WORKLOAD,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay recorded accesses: text of perf script, a damo record."),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            metavar="SNAPSHOT",
            help="Run on a captured machine; of a --trace, a preset, TOML file or host too.",
        ),
    ] = None,
    split_cxl: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Declare the upper share of a one-node SNAPSHOT CXL memory: 50%."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the simulated machine: 64GiB, 1TiB.")
    ] = None,
    ticks: Annotated[
        int | None, typer.Option(min=1, help="Rounds to run, instead of the workload's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; the same one gives the same result.")] = None,
    device: Annotated[
        DeviceChoice | None,
        typer.Option(help="Where the scan runs; auto takes the best there is (gpuscan doctor)."),
    ] = None,
    design: Annotated[
        str,
        typer.Option(metavar="NAME", help="Scan design, one of {designs}."),
    ] = PROGRAM,
    producer: Annotated[
        ProducerChoice | None,
        typer.Option(help="What turns accesses into marks, instead of the workload's: docs/producers.md."),
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Go on on the CPU when the device fails in the middle.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker threads of the CPU device, per shard.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Keep the records in N processes of this machine (Dask); with --cluster, await N workers.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Keep them on the workers of this Dask cluster: tls://host:8786, or scheduler file .json.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Join a --cluster without TLS, on a network that is yours."),
    ] = False,
    shard_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where shards keep checkpoints and logs to survive a lost worker; every worker sees it.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the workload; can be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep plan, series (Parquet), ledger and report (JSON) there."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep checkpoints there; 'gpuscan resume DIR' goes on from the last."
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help=f"Ticks, or a time (30s), between two checkpoints.  [default: {DEFAULT_EVERY}]",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an earlier result at --out, or another run's checkpoints."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Run a workload and show what its migrations were worth.

    Every tick the machine's accesses become marks, the scan claims the marked
    pages, groups them by target node and cuts them into batches, and the
    migrator moves those. The ledger at the end says where every request went.

    \b
    gpuscan run                                          the default, 64 GiB
    gpuscan run cxl-promote --memory 1TiB --json
    gpuscan run cxl-promote --set policy.rate_limit=100MB/s --set tick=50ms
    gpuscan run ping-pong --set producer.hint_faults.two_stage=false   without its filter
    gpuscan run cxl-promote --design rfc-v1              kmigrated as posted
    gpuscan run cxl-promote --machine host.zarr --split-cxl 50%
    gpuscan run --trace mem.txt --machine host.zarr      recorded accesses
    gpuscan run --memory 1TiB --checkpoint state --every 10
    gpuscan run cxl-promote --workers 2                  in shards; see docs/scale.md
    """
    from gpuscan.base.errors import InputError
    from gpuscan.cli.devices import check_threads
    from gpuscan.cli.job import Job, conduct
    from gpuscan.cli.output import Output
    from gpuscan.workload.files import workload_document, workload_of

    output = Output(as_json, quiet=quiet)
    if every is not None and checkpoint is None:
        raise InputError("--every is for checkpoints; give --checkpoint DIR too")
    if workload.endswith(".zarr") and machine is None:
        workload, machine = DEFAULT_WORKLOAD, Path(workload)
    options = [] if trace is None else trace_overrides(trace)
    if trace is not None and machine is not None and machine.suffix != ".zarr" and not machine.is_dir():
        options, machine = [*options, f"topology={{ machine = {quoted(machine)} }}"], None
    if producer is not None:
        options = [*options, f"producer.kind={producer.value}"]
    where, document = workload_document(workload, options + _overrides(memory, ticks, seed, overrides))
    loaded = workload_of(where, document)
    if producer is not None and loaded.source.kind == "trace":
        raise InputError("the samples of a trace are what marks pages; leave out --producer or the trace")
    job = Job(
        workload=loaded,
        where=where,
        document=document,
        snapshot=read_machine(machine, split_cxl, memory),
        machine=machine,
        split_cxl=split_cxl,
        device=device.value if device else None,
        design=design,
        fallback=fallback,
        n_threads=threads,
        out=out,
        force=force,
        every=every or DEFAULT_EVERY,
        workers=workers,
        cluster=cluster,
        shard_dir=shard_dir,
        insecure=insecure,
    )
    if trace is not None and machine is None:
        note_trace_machine(options + (overrides or []), loaded.topology.machine, output)
    check_threads(threads, output)
    if workers is not None or cluster is not None:
        from gpuscan.designs.catalogue import DESIGNS

        if not DESIGNS.get(design).runs_on_a_store:
            raise InputError(
                f"the design {design} is a model that has no shards; leave out --workers and --cluster"
            )
    if checkpoint is None:
        conduct(job, output)
        return
    from contextlib import closing

    from gpuscan.run.resume import Every, RunCheckpoints, check_resumable

    check_resumable(design)
    Every.parse(job.every)
    with closing(RunCheckpoints(checkpoint, force=force)) as checkpoints:
        conduct(job, output, checkpoints)


def _overrides(
    memory: str | None, ticks: int | None, seed: int | None, overrides: list[str] | None
) -> list[str]:
    """Return the options as overrides; ``--set`` comes last and wins."""
    options = {"topology.memory": memory, "ticks": ticks, "seed": seed}
    return [*(f"{key}={value}" for key, value in options.items() if value is not None), *(overrides or [])]


def trace_overrides(trace: Path) -> list[str]:
    """Return what makes any workload one that replays a trace, all of it unless ``--ticks`` says less."""
    return [
        "source.kind=trace",
        f"source.trace={quoted(trace)}",
        f"name={quoted(trace.name or trace)}",
        "shows=recorded accesses, replayed: what would have been promoted, and what it was worth",
        "ticks=1_000_000_000",
    ]


def note_trace_machine(overrides: list[str], machine: str, output: Output) -> None:
    """Note on which machine a trace is replayed where nobody named one."""
    if not any(override.startswith(("topology=", "topology.machine=")) for override in overrides):
        output.note(
            f"gpuscan: note: without --machine the trace is replayed on the workload's machine, {machine}, "
            "and not on the one that it was recorded on"
        )


def quoted(path: Path | str) -> str:
    """Return a TOML string: a file may be called ``1`` or ``true``."""
    import json

    return json.dumps(str(path), ensure_ascii=False)


def read_machine(machine: Path | None, split_cxl: str | None, memory: str | None) -> Snapshot | None:
    """Return the captured machine to run on, if there is one.

    Raises:
        InputError: it is not one, or what was asked for does not go with it.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.base.units import parse_share

    if machine is None:
        if split_cxl is not None:
            raise InputError("--split-cxl divides a captured machine; give one with --machine SNAPSHOT")
        return None
    if memory is not None:
        raise InputError(f"{machine} has the memory it has; leave out --memory or --machine")
    from gpuscan.snapshot.snapshot import Snapshot

    snapshot = Snapshot.read(machine)
    return snapshot if split_cxl is None else snapshot.split_cxl(parse_share(split_cxl))
