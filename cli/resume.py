"""``gpuscan resume``: a run that was killed, or failed, goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.base.program import PROGRAM
from gpuscan.cli.choices import one_of
from gpuscan.kernels.catalogue import device_names

if TYPE_CHECKING:
    from gpuscan.cli.job import Job
    from gpuscan.run.resume import Request, ResumedRun


def resume(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of --checkpoint, or one checkpoint in it.")
    ],
    every: Annotated[
        str | None,
        typer.Option(metavar="N", help="Ticks, or a time, between two checkpoints, instead of the run's."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            **one_of(device_names()), help="Where the scan runs from here on, instead of the run's device."
        ),
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Go on on the CPU when the device fails in the middle.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker threads of the CPU device.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Keep the records in N processes (with --cluster: await N), whatever it was; 0: here.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Keep them on the workers of this Dask cluster from here on."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Join a --cluster without TLS, on a network that is yours."),
    ] = False,
    shard_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where shards keep checkpoints and logs, instead of the run's."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier result at the run's --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Go on with a run from its last checkpoint, and go on keeping them.

    The result is that of the run had nobody stopped it: the same plans, ledger
    and series, and what was asked for with --out. Only wall times differ.

    \b
    gpuscan run --memory 1TiB --checkpoint state --out results
    gpuscan resume state                        after it was killed
    gpuscan resume state --device cpu           after its GPU failed
    gpuscan resume state/checkpoint-00000041    from the one before the last
    gpuscan resume state --workers 4            in shards, whatever it was before
    """
    from contextlib import closing

    from gpuscan.cli.devices import check_threads
    from gpuscan.cli.job import Job, conduct
    from gpuscan.cli.output import Output
    from gpuscan.cli.run import read_machine
    from gpuscan.run.resume import Every, ResumedRun, check_inputs, inputs_of
    from gpuscan.topology.serialize import topology_from_dict
    from gpuscan.workload.files import workload_of

    output = Output(as_json, quiet=quiet)
    if every is not None:
        Every.parse(every)
    check_threads(threads, output)
    with closing(ResumedRun(directory)) as resumed:
        request = resumed.request
        if workers is None and cluster is None:
            _check_named(request, shard_dir)
            workers = request.workers
        machine = None if request.machine is None else Path(request.machine)
        job = Job(
            workload=workload_of(request.where, request.workload),
            where=request.where,
            document=request.workload,
            snapshot=read_machine(machine, request.split_cxl, None),
            machine=machine,
            split_cxl=request.split_cxl,
            device=device if device else request.device,
            design=PROGRAM,
            fallback=fallback or request.fallback,
            n_threads=threads or request.n_threads,
            out=None if request.out is None else Path(request.out),
            force=force,
            every=every or request.every,
            workers=workers or None,
            cluster=cluster,
            shard_dir=shard_dir,
            insecure=insecure,
            topology=None if machine else topology_from_dict(request.topology),
        )
        _check_out(job, resumed)
        check_inputs(request, inputs_of(job.workload, job.snapshot))
        output.note(f"going on after tick {len(resumed.earlier)} of {resumed.directory.path}")
        conduct(job, output, resumed)


def _check_named(request: Request, shard_dir: Path | None) -> None:
    """Refuse to connect or to write where only the checkpoint says so: it may be anybody's.

    Raises:
        InputError: it would.
    """
    from gpuscan.base.errors import InputError

    if request.cluster is not None:
        raise InputError(
            f"the run was on the cluster {request.cluster}, and a checkpoint does not say whom to trust; "
            f"give --cluster {request.cluster} to go on there, or --workers 0 to go on here"
        )
    if request.shard_dir is not None and shard_dir is None:
        raise InputError(
            f"the run kept its shards in {request.shard_dir}; give --shard-dir {request.shard_dir} to go on "
            "there, or --workers 0 to go on without"
        )


def _check_out(job: Job, resumed: ResumedRun) -> None:
    """Refuse to replace a result that may be this run's own.

    Raises:
        InputError: there is one, and nobody said --force.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.run.report import OUT_FILES

    if job.out is None or job.force or not (job.out / OUT_FILES[-1]).is_file():
        return
    place, n_done = resumed.directory.path, len(resumed.earlier)
    if n_done >= resumed.n_ticks:
        raise InputError(
            f"the run of {place} is complete, and its result is in {job.out}; --force writes that again"
        )
    raise InputError(
        f"{job.out} holds a result already, and the last checkpoint of {place} is after tick {n_done} of "
        f"{resumed.n_ticks}; --force goes on from there and replaces it"
    )
