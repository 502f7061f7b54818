"""Machines as TOML files: read with checks that name the key, written without loss.

docs/topology.md has an annotated example, ``gpuscan topology PRESET --toml`` writes one.
Errors give the file, and the line for TOML syntax or the dotted key
(``nodes.2.zones.0.present``) for everything else.
This is the one topology module that imports pydantic.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpuscan.base.complaints import first_complaint, shortened
from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.units import PAGE_SHIFT, parse_bytes, parse_rate_bytes_per_s, parse_time_ns
from gpuscan.files.reading import TOML_BYTES_MAX, UnfitError, read_file, toml_place
from gpuscan.files.reading import parse_toml as parse_toml_text
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.layout import (
    PFN_LIMIT,
    PlannedNode,
    PlannedZone,
    complete,
    is_hotplugged,
    place,
)
from gpuscan.topology.model import (
    CPU_LIMIT,
    DISTANCE_LOCAL,
    DISTANCE_UNREACHABLE,
    HOST,
    ZONE_NAMES,
    Link,
    LoadedLatency,
    MemoryKind,
    Topology,
    Watermarks,
)
from gpuscan.topology.node_files import default_distances

SCHEMA = 1
"""Of the file format; goes up when a reader of the old one would misread the new one."""

_PLAIN_NS = re.compile(r"([0-9][0-9.e+-]*)ns")
_DISTANCE_ROW = re.compile(r"[0-9]{1,3}(?:\s+[0-9]{1,3})*", re.ASCII)
_PLAIN_RATE = re.compile(r"([0-9][0-9.e+-]*)B/s")


def _checked(parse: Callable[[str], Any]) -> AfterValidator:
    """Return a validator that runs ``parse`` and keeps the text: sizes stay as written in the model."""

    def check(text: str) -> str:
        try:
            parse(text)
        except InputError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _exactly(text: str, plain: re.Pattern[str], parse: Callable[[str], int]) -> float:
    # The parsers of gpuscan.base.units round to whole base units; what to_toml() writes keeps fractions.
    match = plain.fullmatch(text.strip())
    try:
        value = float(match[1]) if match else float(parse(text))
    except ValueError as error:
        raise InputError(f"{text!r} is not a number with a unit") from error
    if not 0 < value < math.inf:
        raise InputError(f"{text!r} is not above 0; leave the link out if the figure is unknown")
    return value


def _latency_ns(text: str) -> float:
    return _exactly(text, _PLAIN_NS, parse_time_ns)


def _bandwidth(text: str) -> float:
    return _exactly(text, _PLAIN_RATE, parse_rate_bytes_per_s)


def _memory_pages(text: str) -> int:
    n_pages = parse_bytes(text) >> PAGE_SHIFT
    if not 0 < n_pages <= PFN_LIMIT:
        raise InputError(
            f"{text!r} is not from one page to 4 PiB; leave the key out for a node without memory"
        )
    return n_pages


def _cpu_list(text: str) -> tuple[int, ...]:
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high < CPU_LIMIT:
            raise InputError(f"{part!r} is not a CPU or an ascending range; write for example '0-31,64-95'")
        cpus.extend(range(low, high + 1))
    if len(set(cpus)) != len(cpus):
        raise InputError(f"{text!r} names a CPU twice; name each once")
    return tuple(cpus)


def _distance_row(text: str) -> list[int]:
    row = [int(word) for word in text.split()] if _DISTANCE_ROW.fullmatch(text.strip()) else [-1]
    if min(row) < DISTANCE_LOCAL or max(row) > DISTANCE_UNREACHABLE:
        raise InputError(
            f"{shortened(text)} is not a row of distances from {DISTANCE_LOCAL} to {DISTANCE_UNREACHABLE}; "
            "write for example '10 21', as nodeN/distance in sysfs"
        )
    return row


_Pfn = Annotated[int, Field(ge=0, le=PFN_LIMIT)]
_Nid = Annotated[int, Field(ge=0, lt=N_NODES_MAX)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


def _known_schema(version: int) -> int:
    if version > SCHEMA:
        raise ValueError(f"{version} is newer than the {SCHEMA} read here; install a newer gpuscan")
    if version < SCHEMA:
        raise ValueError(f"{version} was never written; give {SCHEMA}")
    return version


class _Watermarks(_Strict):
    min: _Pfn
    low: _Pfn
    high: _Pfn
    promo: _Pfn

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.min <= self.low <= self.high <= self.promo:
            raise ValueError(
                f"min {self.min}, low {self.low}, high {self.high}, promo {self.promo} do not ascend; "
                "give min <= low <= high <= promo"
            )
        return self


class _Zone(_Strict):
    name: Literal[*ZONE_NAMES]  # type: ignore[valid-type]  # mypy does not unpack constants in Literal
    present: list[Annotated[list[_Pfn], Field(min_length=2, max_length=2)]]
    managed_pages: _Pfn | None = None
    watermarks: _Watermarks | None = None
    lowmem_reserve: (
        Annotated[list[_Pfn], Field(min_length=len(ZONE_NAMES), max_length=len(ZONE_NAMES))] | None
    ) = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        previous_end = 0
        for start, end in self.present:
            if start >= end:
                raise ValueError(
                    f"present range [{start}, {end}] is empty; give [start, end) with start < end"
                )
            if start < previous_end:
                raise ValueError(
                    f"present range [{start}, {end}] is not above the one before; sort them, disjoint"
                )
            previous_end = end
        n_present = sum(end - start for start, end in self.present)
        if self.managed_pages is not None and self.managed_pages > n_present:
            raise ValueError(f"managed_pages {self.managed_pages} is more than the {n_present} present pages")
        return self

    def planned(self) -> PlannedZone:
        marks = self.watermarks
        return PlannedZone(
            self.name,
            tuple((start, end) for start, end in self.present),
            self.managed_pages,
            None if marks is None else Watermarks(marks.min, marks.low, marks.high, marks.promo),
            None if self.lowmem_reserve is None else tuple(self.lowmem_reserve),
        )


class _Node(_Strict):
    nid: _Nid
    kind: Literal["dram", "cxl", "gpu"] = "dram"
    tier: Annotated[int, Field(ge=0, lt=N_NODES_MAX)] | None = None
    cpus: Annotated[str, _checked(_cpu_list)] = ""
    memory: Annotated[str, _checked(_memory_pages)] | None = None
    zones: list[_Zone] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.memory is not None and self.zones:
            raise ValueError("both memory and zones are given; give a size to be laid out, or the zones")
        names = [zone.name for zone in self.zones]
        if len(set(names)) != len(names):
            raise ValueError("a zone appears twice; give one table with all its present ranges")
        return self


class _Loaded(_Strict):
    queue: Annotated[str, _checked(_latency_ns)]
    capacity: Annotated[str, _checked(_bandwidth)]


class _Link(_Strict):
    initiator: _Nid
    memory: _Nid
    latency: Annotated[str, _checked(_latency_ns)]
    bandwidth: Annotated[str, _checked(_bandwidth)]
    loaded: _Loaded | None = None

    def made(self) -> Link:
        loaded = None
        if self.loaded is not None:
            loaded = LoadedLatency(_latency_ns(self.loaded.queue), _bandwidth(self.loaded.capacity))
        return Link(_latency_ns(self.latency), _bandwidth(self.bandwidth), loaded)


class _Machine(_Strict):
    schema_version: Annotated[int, AfterValidator(_known_schema)] = Field(default=1, alias="schema")
    name: str = ""
    distances: list[Annotated[str, _checked(_distance_row)]] | None = None
    nodes: Annotated[list[_Node], Field(min_length=1, max_length=N_NODES_MAX)]
    links: list[_Link] = []


_TABLES: dict[str, type[BaseModel]] = {
    "nodes": _Node,
    "zones": _Zone,
    "watermarks": _Watermarks,
    "links": _Link,
    "loaded": _Loaded,
}
"""Model of each key that is a table, or a list of tables."""


def from_toml(path: Path) -> Topology:
    """Return the machine that a TOML file describes.

    Raises:
        InputError: the file cannot be read or is not TOML; says the line.
        TopologyError: a key is unknown, missing or wrong, or the machine contradicts itself; says the key.
    """
    try:
        text = read_file(path, TOML_BYTES_MAX).decode()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable .toml file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except UnfitError as error:
        raise InputError(f"{path} {error}; give a .toml file") from error
    return parse_toml(text, str(path), path.stem)


def parse_toml(text: str, source: str, name: str = "machine") -> Topology:
    """Return the machine that TOML text describes; see :func:`from_toml`.

    Args:
        text: the TOML.
        source: what errors call the text.
        name: of the machine where the text gives none.
    """
    try:
        document = parse_toml_text(text)
    except tomllib.TOMLDecodeError as error:
        where, said = toml_place(error)
        raise InputError(f"{source}{where}: {said}; fix the TOML there") from error
    except ValueError as error:  # a number of 5000 digits; lists in lists in lists
        raise InputError(f"{source}: TOML that cannot be read ({error}); simplify it") from error
    try:
        machine = _Machine.model_validate(document)
    except ValidationError as error:
        raise TopologyError(f"{source}: {first_complaint(error, 'the machine', _unknown)}") from error
    return _topology(machine, source, name if machine.name in ("", HOST) else machine.name)


def _topology(machine: _Machine, source: str, name: str) -> Topology:
    nodes = sorted(machine.nodes, key=lambda node: node.nid)
    nids = [node.nid for node in nodes]
    position: dict[int, str] = {}
    for index, node in enumerate(machine.nodes):
        if position.setdefault(node.nid, f"nodes.{index}") != f"nodes.{index}":
            raise TopologyError(
                f"{source}: nodes.{index}.nid: node {node.nid} appears twice; number them apart"
            )
    owner: dict[int, int] = {}
    for node in nodes:
        for cpu in _cpu_list(node.cpus):
            if owner.setdefault(cpu, node.nid) != node.nid:
                raise TopologyError(
                    f"{source}: {position[node.nid]}.cpus: CPU {cpu} is on node {owner[cpu]} too; name one"
                )
    _check_extents(machine, source)
    taken = [(start, end) for node in nodes for zone in node.zones for start, end in zone.present]
    sized = [node for node in nodes if node.memory is not None]
    placed = place(
        (
            (_memory_pages(node.memory or ""), is_hotplugged(MemoryKind(node.kind), _cpu_list(node.cpus)))
            for node in sized
        ),
        taken,
    )
    laid_out = {node.nid: zones for node, zones in zip(sized, placed, strict=True)}
    plans = []
    for node in nodes:
        kind = MemoryKind(node.kind)
        zones = laid_out.get(node.nid, tuple(zone.planned() for zone in node.zones))
        if any(end > PFN_LIMIT for zone in zones for _, end in zone.present):
            raise TopologyError(
                f"{source}: {position[node.nid]}.memory: ends above 52-bit addresses; give less memory"
            )
        tier = int(kind is not MemoryKind.DRAM) if node.tier is None else node.tier
        plans.append(PlannedNode(node.nid, kind, tier, _cpu_list(node.cpus), zones))
    if not any(zone.present for plan in plans for zone in plan.zones):
        raise TopologyError(f"{source}: no node has memory; give one of them memory or zones")
    return Topology(name, complete(plans), _distances(machine, nids, source), _links(machine, nids, source))


def _check_extents(machine: _Machine, source: str) -> None:
    extents = sorted(
        (start, end, f"nodes.{n}.zones.{z}")
        for n, node in enumerate(machine.nodes)
        for z, zone in enumerate(node.zones)
        for start, end in zone.present
    )
    for (_, end, below), (start, _, above) in pairwise(extents):
        if start < end:
            raise TopologyError(
                f"{source}: {above}.present: PFN {start} is in {below} too; make the present ranges disjoint"
            )


def _distances(machine: _Machine, nids: list[int], source: str) -> NDArray[np.uint8]:
    if machine.distances is None:
        return default_distances(len(nids))
    rows = [_distance_row(row) for row in machine.distances]
    if len(rows) != len(nids):
        raise TopologyError(
            f"{source}: distances: {len(rows)} rows for {len(nids)} nodes; give one per node, by nid"
        )
    for index, row in enumerate(rows):
        if len(row) != len(nids):
            raise TopologyError(
                f"{source}: distances.{index}: {len(row)} entries for {len(nids)} nodes; "
                "give one per node, by nid"
            )
        if row[index] != DISTANCE_LOCAL:
            raise TopologyError(
                f"{source}: distances.{index}: {row[index]} from node {nids[index]} to itself; "
                f"write {DISTANCE_LOCAL}"
            )
    return np.array(rows, dtype=np.uint8)


def _links(machine: _Machine, nids: list[int], source: str) -> dict[tuple[int, int], Link]:
    links: dict[tuple[int, int], Link] = {}
    known = set(nids)
    for index, link in enumerate(machine.links):
        for key, nid in (("initiator", link.initiator), ("memory", link.memory)):
            if nid not in known:
                raise TopologyError(
                    f"{source}: links.{index}.{key}: there is no node {nid}; name one of nodes"
                )
        if (link.initiator, link.memory) in links:
            raise TopologyError(
                f"{source}: links.{index}: {link.initiator} -> {link.memory} appears twice; give it once"
            )
        links[link.initiator, link.memory] = link.made()
    return links


def _unknown(steps: Sequence[int | str]) -> str:
    model: type[BaseModel] = _Machine
    for step in steps[:-1]:
        model = _TABLES.get(str(step), model)
    keys = (field.alias or name for name, field in model.model_fields.items())
    return f"; choose one of {', '.join(keys)}"


def to_toml(topology: Topology) -> str:
    """Return the text from which :func:`from_toml` makes the same machine: every figure written out.

    The name of the host is left out: it would be another machine's elsewhere, and the file has one.
    """
    lines = [
        f"schema = {SCHEMA}",
        *([] if topology.name == HOST else [f"name = {_quoted(topology.name)}"]),
        "distances = [",
        *(f'    "{" ".join(map(str, row))}",' for row in topology.distance.tolist()),
        "]",
    ]
    for node in topology.nodes:
        lines += ["", "[[nodes]]", f"nid = {node.nid}", f'kind = "{node.kind.value}"', f"tier = {node.tier}"]
        if node.cpus:
            lines.append(f'cpus = "{_ranges(node.cpus)}"')
        for zone in node.zones:
            marks = zone.watermarks
            lines += [
                "",
                "[[nodes.zones]]",
                f'name = "{zone.name}"',
                f"present = {[list(pfns) for pfns in zone.present]}",
                f"managed_pages = {zone.managed_pages}",
                f"watermarks = {{ min = {marks.min}, low = {marks.low}, "
                f"high = {marks.high}, promo = {marks.promo} }}",
                f"lowmem_reserve = {list(zone.lowmem_reserve)}",
            ]
    for (initiator, memory), link in topology.links.items():
        lines += [
            "",
            "[[links]]",
            f"initiator = {initiator}",
            f"memory = {memory}",
            f'latency = "{_number(link.latency_ns)}ns"',
            f'bandwidth = "{_scaled_rate(link.bandwidth_bytes_per_s)}"',
        ]
        if link.loaded is not None:
            capacity = _scaled_rate(link.loaded.capacity_bytes_per_s)
            lines.append(
                f'loaded = {{ queue = "{_number(link.loaded.queue_ns)}ns", capacity = "{capacity}" }}'
            )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and value < 1 << 53 else repr(value)


def _scaled_rate(bytes_per_s: float) -> str:
    for unit, scale in (("GB/s", 10**9), ("MB/s", 10**6)):
        if bytes_per_s.is_integer() and bytes_per_s < 1 << 53 and not int(bytes_per_s) % scale:
            return f"{int(bytes_per_s) // scale}{unit}"
    return f"{_number(bytes_per_s)}B/s"


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
