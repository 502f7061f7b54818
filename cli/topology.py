"""``gpuscan topology``: show a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers

if TYPE_CHECKING:
    from rich.table import Table

    from gpuscan.cli.output import Output
    from gpuscan.topology.model import Topology


def topology(
    source: Annotated[
        str,
        typer.Argument(
            help="A preset, host, or a file: .toml, a tree of /proc and /sys or its archive, text of numactl "
            "-H, XML of lstopo."
        ),
    ] = "host",
    tiers: Annotated[
        list[str] | None, typer.Option(*TIER_OPTION.flags, metavar=TIER_OPTION.metavar, help=TIER_OPTION.help)
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Size of a preset, for example 64TiB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print the machine as a TOML file.")] = False,
    list_presets: Annotated[bool, typer.Option("--list", help="List the presets.")] = False,
) -> None:
    """Show a machine: its nodes with their zones, tiers and targets, and the distances.

    \b
    gpuscan topology                            this machine
    gpuscan topology cxl-pool --memory 64TiB    a preset
    gpuscan topology cxl-pool --toml > mine.toml    a file to start your own from
    gpuscan topology ./mine.toml                your own
    gpuscan topology ./server7.tar.bz2          one of hwloc-gather-topology
    numactl -H > there.txt; gpuscan topology ./there.txt --tier 2=1
    """
    from gpuscan.base.units import format_bytes, format_number, parse_bytes
    from gpuscan.cli.output import Output
    from gpuscan.topology.resolve import resolve_machine
    from gpuscan.topology.table import DISTANCE_MATRIX_MAX_NODES, topology_json
    from gpuscan.topology.tiers import with_tiers

    output = Output(as_json)
    if list_presets:
        _list_presets(output)
        return
    memory_bytes = None if memory is None else parse_bytes(memory)
    host = resolve_machine(source, memory_bytes)
    for note in host.notes:
        output.note(f"gpuscan: note: {note}")
    machine = with_tiers(host.topology, parse_tiers(tiers or ()))
    if as_json:
        output.document(topology_json(machine))
        return
    if as_toml:
        from gpuscan.topology.toml import to_toml

        output.text(to_toml(machine))
        return
    n_nodes = len(machine.nodes)
    output.line(
        f"{machine.name}: {format_number(n_nodes, 'node')}, {format_bytes(machine.memory_bytes)} present"
    )
    output.line()
    output.table(_nodes_table(machine))
    if n_nodes > 1:
        output.line()
        output.table(
            _distance_matrix(machine) if n_nodes <= DISTANCE_MATRIX_MAX_NODES else _distance_summary(machine)
        )


def _list_presets(output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_bytes
    from gpuscan.topology.presets import PRESETS

    output.document(
        {
            "presets": [
                {
                    "name": preset.name,
                    "description": preset.description,
                    "n_nodes": preset.n_nodes,
                    "memory_bytes": preset.memory_bytes,
                }
                for preset in PRESETS.values()
            ]
        }
    )
    table = Table("preset", "what it is", "nodes", "memory", box=None, header_style="bold", pad_edge=False)
    for preset in PRESETS.values():
        table.add_row(
            preset.name, preset.description, f"{preset.n_nodes:,}", format_bytes(preset.memory_bytes)
        )
    output.table(table)


def _nodes_table(machine: Topology) -> Table:
    from rich.table import Table

    from gpuscan.base.units import format_bytes
    from gpuscan.topology.table import folded, node_rows

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("node", "kind", "tier", "CPUs", "memory", "zones", "promotes to", "demotes to"):
        table.add_column(
            heading, justify="right" if heading in ("node", "tier", "CPUs", "memory") else "left"
        )
    table.add_column("latency", justify="right")
    table.add_column("bandwidth", justify="right")
    for row in folded(node_rows(machine)):
        table.add_row(
            str(row.first_nid) if row.first_nid == row.last_nid else f"{row.first_nid}-{row.last_nid}",
            row.kind,
            str(row.tier),
            str(row.n_cpus) if row.n_cpus else "-",
            format_bytes(row.memory_bytes),
            " ".join(row.zones) or "-",
            "-" if row.promotion_target is None else str(row.promotion_target),
            "-" if row.demotion_target is None else str(row.demotion_target),
            "-" if row.latency_ns is None else f"{row.latency_ns:g} ns",
            "-" if row.bandwidth_bytes_per_s is None else f"{row.bandwidth_bytes_per_s / 1e9:g} GB/s",
        )
    return table


def _distance_matrix(machine: Topology) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("distance", justify="right")
    for node in machine.nodes:
        table.add_column(str(node.nid), justify="right")
    for node, row in zip(machine.nodes, machine.distance.tolist(), strict=True):
        table.add_row(f"from {node.nid}", *map(str, row))
    return table


def _distance_summary(machine: Topology) -> Table:
    from rich.table import Table

    from gpuscan.topology.model import DISTANCE_UNREACHABLE
    from gpuscan.topology.table import distance_counts

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("distance", justify="right")
    table.add_column("pairs of nodes", justify="right")
    for distance, n_pairs in distance_counts(machine):
        shown = f"unreachable ({distance})" if distance == DISTANCE_UNREACHABLE else str(distance)
        table.add_row(shown, f"{n_pairs:,}")
    return table
