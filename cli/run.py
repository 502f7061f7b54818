"""``gpuscan run``: what to run, where, and what to keep of it."""

from __future__ import annotations

import typer

from gpuscan.cli.options import Voice, takes_options
from gpuscan.cli.views import Views
from gpuscan.run.request import RunRequest


@takes_options
def run(context: typer.Context, request: RunRequest, views: Views, voice: Voice) -> None:
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
    gpuscan run cxl-promote --report page.html           a page for a browser
    gpuscan run --trace-events run.json.gz               a timeline for ui.perfetto.dev
    gpuscan run --memory 1TiB --checkpoint state --every 10
    gpuscan run cxl-promote --workers 2                  in shards; see docs/scale.md
    """
    from gpuscan.cli.job import begin, check_here
    from gpuscan.run.job import read_job

    output = voice.output()
    job = read_job(request)
    for note in job.notes:
        output.note(f"gpuscan: note: {note}")
    check_here(request, views, output)
    begin(job, output, views, context.obj.line)
