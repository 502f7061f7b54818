"""``gpuscan reproduce``: published experiments, and what the models here give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.cli.options import Voice, takes_options
from gpuscan.reproduce.request import ReproduceRequest

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.reproduce.run import Reproduced


@takes_options
def reproduce(request: ReproduceRequest, voice: Voice) -> None:
    """Run published experiments and lay ours beside the published figures.

    Each row is published, ours, the difference, and whether the bar is reached: counts within 1 %,
    rates and ratios within 10 %; orderings are all as published, or said not to be. What is missed
    is counted and says what is missing: that is a result, and the exit code is 0.

    \b
    gpuscan reproduce                      all of them
    gpuscan reproduce --list               names them
    gpuscan reproduce colloid-gups         one
    gpuscan reproduce batch-size --topology host --out curve/   for a machine of yours
    """
    from gpuscan import __version__
    from gpuscan.base.program import PROGRAM
    from gpuscan.base.units import parse_bytes
    from gpuscan.bench.host import describe_host
    from gpuscan.bench.plots import require_matplotlib
    from gpuscan.cli.devices import note_if_compiling
    from gpuscan.files.writing import check_place
    from gpuscan.reproduce.catalogue import EXPERIMENTS
    from gpuscan.reproduce.contract import Setting
    from gpuscan.reproduce.report import contents, document_of, write_out
    from gpuscan.reproduce.run import reproduce, wanted
    from gpuscan.topology.resolve import resolve_topology

    output = voice.output()
    request.check()
    names = wanted(request.names, with_topology=request.topology is not None)
    if request.only_list:
        _list(names, output)
        return
    topology = None
    if request.topology is not None:
        memory_bytes = None if request.memory is None else parse_bytes(request.memory)
        topology = resolve_topology(request.topology, memory_bytes)
    if request.out is not None:
        check_place(request.out, contents(), force=request.force)
        if request.plots and any(EXPERIMENTS.get(name).draw is not None for name in names):
            require_matplotlib()
    with note_if_compiling(output), output.progress("reproduce", float(len(names))) as progress:
        setting = Setting(request.seed, topology)

        def on_step(what: str, share: float) -> None:
            progress.advance(share * len(names), now=what)

        done = list(reproduce(names, setting, on_step))
    document = document_of(done, request.seed, {PROGRAM: __version__, "host": describe_host()})
    if request.out is not None:
        write_out(request.out, done, document, plots=request.plots, force=request.force)
        output.note(f"kept in {request.out}")
    output.document(document)
    _print(done, output, markdown=request.markdown)
    reached, judged = document["reached"], document["judged"]
    output.line(f"{reached} of {judged} figures and orders reached, in {document['seconds']:.0f} s")


def _list(names: tuple[str, ...], output: Output) -> None:
    from rich.table import Table

    from gpuscan.reproduce.catalogue import EXPERIMENTS

    found = [(name, EXPERIMENTS.get(name)) for name in names]
    output.document(
        {
            "experiments": [
                {"name": name, "about": one.about, "source": one.source, "figures": len(one.published)}
                for name, one in found
            ]
        }
    )
    table = Table("experiment", "figures", "", box=None, header_style="bold", pad_edge=False)
    for name, one in found:
        table.add_row(name, str(len(one.published)), one.about)
    output.table(table)


def _print(done: list[Reproduced], output: Output, *, markdown: bool) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_figure
    from gpuscan.reproduce.report import cells_of, markdown_of, remarks_of

    for one in done:
        if markdown:
            output.text(markdown_of(one) + "\n")
            continue
        judged = one.judged
        output.line(f"{judged.name}: {judged.experiment.about}")
        output.line(f"{judged.experiment.source}; scale: {judged.experiment.scale}")
        output.line()
        if judged.rows:
            headings = ("", "published", "ours", "difference", "")
            shown = Table(*headings, box=None, header_style="bold", pad_edge=False)
            for column in shown.columns[1:4]:
                column.justify = "right"
            for row in judged.rows:
                shown.add_row(*cells_of(row))
            output.table(shown)
            output.line()
        for table in judged.outcome.tables:
            output.line(table.title)
            shown = Table(*table.columns, box=None, header_style="bold", pad_edge=False)
            for cells in table.rows:
                shown.add_row(*map(format_figure, cells))
            output.table(shown)
            output.line()
        for remark in remarks_of(one):
            output.line(f"- {remark}")
        output.line()
