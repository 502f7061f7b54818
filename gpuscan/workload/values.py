"""Types of the values in a workload file that are tables by node."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gpuscan.base.errors import InputError
from gpuscan.base.units import parse_share, parse_time_ns
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.lists import parse_list

_ADDS_UP = 1e-6
"""Slack of shares that should add up to 100%."""


def _by_nodes(value: Any, parse: Callable[[str], Any], example: str) -> list[tuple[list[int], Any]]:
    """Return nids and value of each entry of a table by node, or by a list of nodes as sysfs writes it."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{value!r} is not a table by node; write for example {example}")
    parsed = []
    for nodes, text in value.items():
        if re.fullmatch(
            r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", nodes
        ) is None or not isinstance(text, str):
            raise ValueError(f"{nodes} = {text!r} is not a value for a node; write for example {example}")
        try:
            parsed.append((parse_list(nodes), parse(text)))
        except InputError as error:
            raise ValueError(str(error)) from error
    named = [nid for nids, _ in parsed for nid in nids]
    twice = sorted(nid for nid, count in Counter(named).items() if count > 1)
    if twice:
        raise ValueError(f"node {twice[0]} is named twice; name it once")
    return parsed


def _parse_placement(value: Any) -> tuple[tuple[int, float], ...]:
    if value == "spill":
        return ()
    placed = _by_nodes(value, parse_share, '{ 0 = "30%", 2 = "70%" }, or "spill"')
    total = sum(share for _, share in placed)
    if abs(total - 1.0) > _ADDS_UP:
        raise ValueError(f"the shares add up to {total:.1%}; make it 100%")
    return tuple((nid, share / len(nids)) for nids, share in placed for nid in nids)


def _parse_intervals(value: Any) -> tuple[tuple[int, int], ...]:
    by_nodes = _by_nodes(value, parse_time_ns, '{ 2 = "1s" }')
    return tuple((nid, interval_ns) for nids, interval_ns in by_nodes for nid in nids)


Placement = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_parse_placement)]
"""Shares by nid, a list of nodes in equal parts; empty = "spill": next to the first CPUs, then nearest."""
Intervals = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_parse_intervals)]
"""Nanoseconds by nid."""
Nid = Annotated[int, Field(ge=0, lt=N_NODES_MAX)]
