"""``gpuscan resume``: a run that was killed, or failed, goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuscan.cli.options import AGAIN, Voice, takes_options
from gpuscan.cli.views import Views
from gpuscan.run.request import RunRequest


@takes_options
def resume(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of --checkpoint, or one checkpoint in it.")
    ],
    changes: Annotated[RunRequest, AGAIN],
    views: Views,
    voice: Voice,
) -> None:
    """Go on with a run from its last checkpoint, and go on keeping them.

    The result is that of the run had nobody stopped it: the same plans, ledger
    and series, and what was asked for with --out, --report and --trace-events.
    Only wall times differ.

    \b
    gpuscan run --memory 1TiB --checkpoint state --out results
    gpuscan resume state                        after it was killed
    gpuscan resume state --device cpu           after its GPU failed
    gpuscan resume state/checkpoint-00000041    from the one before the last
    gpuscan resume state --workers 4            in shards, whatever it was before
    """
    from contextlib import closing

    from gpuscan.cli.job import check_here, check_views, conduct
    from gpuscan.run.resume import ResumedRun

    output = voice.output()
    _ = changes.pace
    check_here(changes, views, output)
    with closing(ResumedRun(directory)) as resumed:
        views, left_out = views.else_of(resumed.views)
        for sentence in left_out:
            output.note(f"gpuscan: note: {sentence}")
        job = resumed.kept.job(changes)
        check_views(views, job.request, resumed.directory.path)
        resumed.check_out(job.request)
        output.note(f"going on after tick {len(resumed.earlier)} of {resumed.directory.path}")
        conduct(job, output, views, context.obj.line, resumed)
