"""Types of the values in a workload file: strings with a unit, turned into base units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gpuscan.base.errors import InputError
from gpuscan.base.units import (
    parse_bytes,
    parse_fine_time_ns,
    parse_rate_bytes_per_s,
    parse_share,
    parse_time_ns,
)
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.lists import parse_list
from gpuscan.topology.model import Topology

_ADDS_UP = 1e-6
"""Slack of shares that should add up to 100%."""


def _parsed(parse: Callable[[str], Any], example: str) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write a string such as {example!r}")
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _parse_memory(text: str) -> int | float:
    return parse_share(text) if text.rstrip().endswith("%") else parse_bytes(text)


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


def _parse_scan_period(value: Any) -> Any:
    """Return nanoseconds, or ``adaptive``."""
    if value == "adaptive":
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit; write a string such as '1s', or 'adaptive'")
    try:
        period_ns = parse_time_ns(value)
    except InputError as error:
        raise ValueError(f"{error}, or 'adaptive'") from error
    if period_ns == 0:
        raise ValueError("a scanner that never pauses has no period; give a time above 0, or 'adaptive'")
    return period_ns


def _parse_intervals(value: Any) -> tuple[tuple[int, int], ...]:
    by_nodes = _by_nodes(value, parse_time_ns, '{ 2 = "1s" }')
    return tuple((nid, interval_ns) for nids, interval_ns in by_nodes for nid in nids)


Bytes = Annotated[int, _parsed(parse_bytes, "64GiB")]
TimeNs = Annotated[int, _parsed(parse_time_ns, "100ms")]
FineTimeNs = Annotated[float, _parsed(parse_fine_time_ns, "2.9ns")]
Rate = Annotated[int, _parsed(parse_rate_bytes_per_s, "100MB/s")]
Share = Annotated[float, _parsed(parse_share, "50%")]
Memory = Annotated[int | float, _parsed(_parse_memory, "70%")]
"""Bytes (int), or a share of the machine's memory (float)."""
Placement = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_parse_placement)]
"""Shares by nid, a list of nodes in equal parts; empty = "spill": next to the first CPUs, then nearest."""
Intervals = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_parse_intervals)]
"""Nanoseconds by nid."""
ScanPeriod = Annotated[int | Literal["adaptive"], BeforeValidator(_parse_scan_period)]
"""Nanoseconds, or ``adaptive``."""
Nid = Annotated[int, Field(ge=0, lt=N_NODES_MAX)]


class Model(BaseModel):
    """A table: every key is known, every value of its own type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def bytes_of(memory: int | float, topology: Topology) -> int:
    """Return a size that may be a share of the machine's memory in bytes."""
    return memory if isinstance(memory, int) else int(memory * topology.memory_bytes)
