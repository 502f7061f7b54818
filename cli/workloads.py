"""``gpuscan workloads``: what comes with gpuscan, as a list or as a file to start from."""

from __future__ import annotations

from typing import Annotated

import typer


def workloads(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this one's TOML instead of the list.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the built-in workloads, each with what it shows, or print one.

    \b
    gpuscan run NAME                       runs one
    gpuscan run NAME --set ticks=20        changes any key of it
    gpuscan workloads NAME > mine.toml     starts your own from it
    gpuscan run ./mine.toml                runs that
    """
    from rich.table import Table

    from gpuscan.cli.output import Output
    from gpuscan.workload.files import DEFAULT_WORKLOAD, builtin_text, builtin_workloads

    output = Output(as_json)
    if name is not None:
        text = builtin_text(name)
        output.document({"name": name, "toml": text})
        output.text(text)
        return
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
