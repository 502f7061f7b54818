"""``gpuscan inspect``: what a file is, what is in it and what can be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.base.given import GIVEN_OPTION

if TYPE_CHECKING:
    from gpuscan.topology.model import Topology


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file or directory.")],
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine", "--topology", help="Whose memory it is: a snapshot, .toml, preset or host."
        ),
    ] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Size of a preset.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(*GIVEN_OPTION.flags, metavar=GIVEN_OPTION.metavar, help=GIVEN_OPTION.help),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a file is, what is in it and what can be done with it.

    Knows traces, page tables, snapshots, checkpoints, plans, results, machines and workloads.

    \b
    gpuscan inspect mem.txt                         a trace: time, addresses, CPUs
    gpuscan inspect mem.txt --machine host.zarr     and which nodes its pages are on
    """
    from rich.table import Table

    from gpuscan.base.given import parse_given
    from gpuscan.cli.output import Output
    from gpuscan.inspection import inspect as look

    output = Output(as_json)
    of_machine = None if machine is None else _machine(machine, memory)
    with output.progress(f"reading {path.name}", None, unit="bytes") as bar:
        kind, found = look(path, of_machine, bar.advance, parse_given(given or ()))
    output.document(
        {
            "file": path,
            "kind": kind,
            "what": found.what,
            **found.facts,
            "commands": [{"command": command, "does": does} for command, does in found.commands],
            "notes": found.notes,
        }
    )
    output.line(f"{path}: {found.what}")
    output.line()
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        table.add_column()
    for row in found.rows:
        table.add_row(*row)
    output.table(table)
    output.line()
    for command, does in found.commands:
        output.line(f"{command}    # {does}")
    for note in found.notes:
        output.note(f"gpuscan: note: {note}")


def _machine(name: str, memory: str | None) -> Topology:
    """Return the machine that the user names: of a snapshot, or as other commands take it."""
    from gpuscan.base.units import parse_bytes
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.topology.resolve import resolve_topology

    if (Path(name) / "zarr.json").exists():
        return Snapshot.read(Path(name)).topology
    return resolve_topology(name, None if memory is None else parse_bytes(memory))
