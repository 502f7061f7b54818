"""``gpuscan workloads``: what comes with gpuscan."""

from __future__ import annotations

from typing import Annotated

import typer


def workloads(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the built-in workloads, each with what it shows.

    \b
    gpuscan run NAME                       runs one
    gpuscan run NAME --set ticks=20        changes any key of it
    gpuscan run ./mine.toml                runs your own
    """
    from rich.table import Table

    from gpuscan.cli.output import Output
    from gpuscan.workload import DEFAULT_WORKLOAD, builtin_workloads

    output = Output(as_json)
    listed = builtin_workloads()
    output.document(
        {
            "workloads": [
                {"name": name, "shows": shows, "default": name == DEFAULT_WORKLOAD} for name, shows in listed
            ]
        }
    )
    table = Table("workload", "shows", box=None, header_style="bold", pad_edge=False)
    for name, shows in listed:
        table.add_row(f"{name} (default)" if name == DEFAULT_WORKLOAD else name, shows)
    output.table(table)
