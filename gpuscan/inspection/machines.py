"""What is said of a machine, whatever file it is in."""

from __future__ import annotations

from typing import Any

from gpuscan.base.units import format_bytes, format_number
from gpuscan.topology import Topology
from gpuscan.topology.table import topology_json


def machine_rows(machine: Topology) -> tuple[tuple[str, str], ...]:
    """Return rows about a machine."""
    nodes = [
        f"node {node.nid}: {node.kind.value}, tier {node.tier}, "
        f"{format_bytes(node.present_pages << 12)}, {format_number(len(node.cpus), 'CPU')}"
        for node in machine.nodes[:_N_SHOWN]
    ]
    if len(machine.nodes) > _N_SHOWN:
        nodes.append(f"and {len(machine.nodes) - _N_SHOWN:,} more")
    return (
        ("machine", machine.name),
        ("memory", f"{format_bytes(machine.memory_bytes)} in {format_number(len(machine.nodes), 'node')}"),
        *(("", line) for line in nodes),
    )


def machine_facts(machine: Topology) -> dict[str, Any]:
    """Return the same for programs."""
    return {"topology": topology_json(machine)}


_N_SHOWN = 8
