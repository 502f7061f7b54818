"""``gpuscan resume``: a run that was killed, or failed, goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.cli.options import AGAIN, Voice, takes_options
from gpuscan.run.request import RunRequest

if TYPE_CHECKING:
    from gpuscan.run.resume import ResumedRun


@takes_options
def resume(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of --checkpoint, or one checkpoint in it.")
    ],
    changes: Annotated[RunRequest, AGAIN],
    voice: Voice,
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
    from gpuscan.cli.job import conduct
    from gpuscan.run.resume import ResumedRun

    output = voice.output()
    _ = changes.pace
    check_threads(changes.n_threads, output)
    with closing(ResumedRun(directory)) as resumed:
        job = resumed.kept.job(changes)
        _check_out(job.request, resumed)
        output.note(f"going on after tick {len(resumed.earlier)} of {resumed.directory.path}")
        conduct(job, output, resumed)


def _check_out(request: RunRequest, resumed: ResumedRun) -> None:
    """Refuse to replace a result that may be this run's own.

    Raises:
        InputError: there is one, and nobody said --force.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.run.report import OUT_FILES

    if request.out is None or request.force or not (request.out / OUT_FILES[-1]).is_file():
        return
    place, n_done = resumed.directory.path, len(resumed.earlier)
    if n_done >= resumed.n_ticks:
        raise InputError(
            f"the run of {place} is complete, and its result is in {request.out}; --force writes that again"
        )
    raise InputError(
        f"{request.out} holds a result already, and the last checkpoint of {place} is after tick {n_done} of "
        f"{resumed.n_ticks}; --force goes on from there and replaces it"
    )
