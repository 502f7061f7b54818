"""``gpuscan ctl``: ask the service that runs, or tell it what to do."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gpuscan.cli.output import Output


class Order(StrEnum):
    """What can be asked of the service."""

    status = "status"
    pause = "pause"
    resume = "resume"
    reload = "reload"
    drain = "drain"
    dump = "dump"


def ctl(
    order: Annotated[Order, typer.Argument(help="What to do; status where nothing is said.")] = Order.status,
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="Of drain: which node, or none to fill all again.")
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Where the service listens, if elsewhere.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what the service does, or have it do something else (root, or the group of service.group).

    \b
    gpuscan ctl status            what is where, what moved, what it costs, what comes next
    gpuscan ctl pause             look at nothing until 'gpuscan ctl resume'
    gpuscan ctl reload            read the configuration again
    gpuscan ctl drain 2           empty node 2 of what is watched; 'drain none' ends that
    gpuscan ctl dump              all of it, each process too, as JSON
    """
    from gpuscan.base.errors import InputError
    from gpuscan.cli.output import Output
    from gpuscan.service.client import ask
    from gpuscan.service.wire import SOCKET

    nid = None
    if order is Order.drain:
        if node is None or not (node == "none" or (node.isascii() and node.isdigit() and len(node) < 6)):
            raise InputError("drain takes the number of a node, or none; see gpuscan topology host")
        nid = None if node == "none" else int(node)
    elif node is not None:
        raise InputError(f"{order.value} takes no node; leave {node} out")
    document = ask(socket or Path("/") / SOCKET, order.value, nid)
    output = Output(as_json or order is Order.dump)
    output.document(document)
    _print(document, output)


def _print(document: dict[str, Any], output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_time

    problem = f"; {document['problem']}" if document["problem"] else ""
    output.line(
        f"{document['state']}, {document['n_processes']} processes watched with {document['monitor']}, "
        f"for {format_time(document['running_s'] * 1e9)}{problem}"
    )
    output.line()
    nodes = Table("node", "tier", "resident", "moved here", "", box=None, header_style="bold", pad_edge=False)
    for node in document["nodes"]:
        draining = "draining" if node["draining"] else ""
        here = _size(node["resident_pages"]), _size(node["moved_pages"])
        nodes.add_row(str(node["nid"]), str(node["tier"]), *here, draining)
    output.table(nodes)
    output.line()
    policies = Table(
        *("rule", "policy", "processes", "resident", "hot", "near", "up", "down", "waits", "may go now"),
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for one in document["policies"]:
        if one["helper"] is not None:
            moved = (_size(one[key]) for key in ("promoted_pages", "demoted_pages"))
            policies.add_row(one["name"], one["policy"], str(one["n_processes"]), *"---", *moved, "-", "-")
            continue
        left = one["next"]["budget_left_pages"]
        near = f"{one['hot_near_pages'] / one['hot_pages']:.0%}" if one["hot_pages"] else "-"
        policies.add_row(
            *(one["name"], one["policy"], str(one["n_processes"])),
            *(_size(sum(one["resident_pages"].values())), _size(one["hot_pages"]), near),
            *(_size(one["promoted_pages"]), _size(one["demoted_pages"])),
            *(_size(one["next"]["candidate_pages"]), "all" if left is None else _size(left)),
        )
    output.table(policies)
    for helper in document["helpers"]:
        output.line()
        output.line(
            f"by the kernel: {helper['does']}, for {', '.join(helper['rules'])}; "
            f"its threads took {helper['cpu_s']} s{'; ' if helper['trouble'] else ''}{helper['trouble']}"
        )
    _print_refused(document, output)
    _print_cost(document["cost"], output)


def _print_refused(document: dict[str, Any], output: Output) -> None:
    from rich.table import Table

    rows = [(one["name"], why, n) for one in document["policies"] for why, n in one["refused"].items()]
    rows += [("pages, all rules", why, n) for why, n in document["not_candidates"].items() if n]
    if rows:
        output.line()
        table = Table("rule", "not moved", "times", box=None, header_style="bold", pad_edge=False)
        for name, why, n in rows:
            table.add_row(name, why, f"{n:,}")
        output.table(table)
    history = document["history"]
    if history["problem"]:
        output.line()
        output.line(f"history: {history['problem']}; {history['lost']:,} notes lost")


def _print_cost(cost: dict[str, Any], output: Output) -> None:
    output.line()
    output.line(
        f"cost: {cost['cpu_share']:.2%} of a core (ceiling {cost['cpu_ceiling']:.2%}), kernel threads "
        f"{cost['kernel_threads_share']:.2%}; a look {cost['look_cpu_ms']} ms, every {cost['pause_ms']} ms; "
        f"{cost['pauses_lengthened']:,} pauses lengthened, {cost['ceiling_exceeded']:,} times not enough"
    )
    output.line(
        f"calls: {cost['calls']:,} of up to {cost['call_pages']} pages, the longest "
        f"{cost['longest_call_ms']} ms (ceiling {cost['call_ceiling_ms']:g} ms), "
        f"{cost['calls_over_ceiling']:,} above it"
    )


def _size(n_pages: int) -> str:
    from gpuscan.base.units import PAGE_BYTES, format_bytes

    return format_bytes(n_pages * PAGE_BYTES)
