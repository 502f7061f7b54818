"""What /sys/devices/system/node says of nodes: which there are, their CPUs, distances, links and tiers."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import TopologyError
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.file_tree import NODES, FileTree
from gpuscan.topology.model import CPU_LIMIT, DISTANCE_LOCAL, DISTANCE_REMOTE_DEFAULT, Link, MemoryKind
from gpuscan.topology.zoneinfo import parse_count

_GPUS = "proc/driver/nvidia/gpus"
_POWER9_GPU_NIDS = range(250, 256)
"""Firmware of POWER9 machines numbers GPUs' memory from 255 downwards, six GPUs at most."""
_LISTED_MAX = 1 << 20
"""CPUs that nodes list: with ``numa=fake`` each of many nodes lists all."""
_MASK = re.compile(r"[0-9a-fA-F]{1,8}(?:,[0-9a-fA-F]{1,8})*")


def listed_nodes(files: FileTree) -> list[int] | None:
    """Return the nodes that are online, ascending; None where the kernel shows none (no CONFIG_NUMA)."""
    name = f"{NODES}/online"
    text = files.read(name)
    if text is not None:
        return sorted(set(parse_list(text, files.place(name), N_NODES_MAX)))
    found = [int(each[4:]) for each in files.names(NODES) if re.fullmatch("node[0-9]{1,6}", each)]
    if any(nid >= N_NODES_MAX for nid in found):
        raise TopologyError(
            f"{files.place(NODES)} has node {max(found)}; gpuscan knows nodes up to {N_NODES_MAX - 1}"
        )
    return sorted(found) or None


def cpus_of_nodes(files: FileTree, nids: list[int]) -> tuple[dict[int, tuple[int, ...]], str]:
    """Return the CPUs that each node lists, and the file whose absence leaves those of all unknown, or ''."""
    cpus: dict[int, tuple[int, ...]] = {}
    n_listed = 0
    for nid in nids:
        found, name = _cpus_of_node(files, nid, is_only=len(nids) == 1)
        if found is None:
            return dict.fromkeys(nids, ()), files.place(name)
        cpus[nid] = found
        n_listed += len(found)
        check_listed(n_listed, files.place(NODES))
    return cpus, ""


def _cpus_of_node(files: FileTree, nid: int, *, is_only: bool) -> tuple[tuple[int, ...] | None, str]:
    """Return the CPUs that a node lists, None where nothing says them, and the file looked for last."""
    list_name, mask_name = f"{NODES}/node{nid}/cpulist", f"{NODES}/node{nid}/cpumap"
    text = files.read(list_name)
    if text is not None:
        return parse_list(text, files.place(list_name), CPU_LIMIT), list_name
    mask = files.read(mask_name)  # before v2.6.26 there is no other
    if mask is not None:
        return _parse_mask(mask, files.place(mask_name)), mask_name
    if not is_only:
        return None, list_name
    online = "sys/devices/system/cpu/online"
    text = files.read(online)
    return (None if text is None else parse_list(text, files.place(online), CPU_LIMIT)), online


def check_listed(n_listed: int, place: str) -> None:
    """Refuse more CPUs, those that several nodes list counted for each, than any machine lists.

    Raises:
        TopologyError: there are more.
    """
    if n_listed > _LISTED_MAX:
        raise TopologyError(f"{place}: its nodes list more than {_LISTED_MAX:,} CPUs in all; read again")


def once(cpus: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Return the CPUs of each node, those that several list with the first."""
    own: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    for nid, listed in sorted(cpus.items()):
        own[nid] = tuple(cpu for cpu in dict.fromkeys(listed) if cpu not in taken)
        taken.update(listed)
    return own


def default_distances(n_nodes: int) -> NDArray[np.uint8]:
    """Return what the kernel assumes where firmware says nothing."""
    distance = np.full((n_nodes, n_nodes), DISTANCE_REMOTE_DEFAULT, dtype=np.uint8)
    np.fill_diagonal(distance, DISTANCE_LOCAL)
    return distance


def distances(files: FileTree, nids: list[int], *, may_lack: bool) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the distances between nodes, and what is to be said of them.

    Args:
        files: of the machine.
        nids: its nodes.
        may_lack: whether the files may be missing, of all nodes: then it is what the kernel assumes.
    """
    texts = {nid: files.read(f"{NODES}/node{nid}/distance") for nid in nids}
    distance = default_distances(len(nids))
    if may_lack and len(nids) > 1 and not any(texts.values()):
        return distance, [
            f"no node has a distance file: {DISTANCE_REMOTE_DEFAULT} is taken between all of them, as the "
            "kernel assumes"
        ]
    columns = _columns(files, nids)
    for row, (nid, text) in enumerate(texts.items()):
        place = files.place(f"{NODES}/node{nid}/distance")
        if text is None and len(nids) == 1:
            break
        if text is None:
            raise TopologyError(
                f"{place} is not there; mount all of /sys, or describe the machine in a TOML file"
            )
        values = [parse_count(word, "a distance", f"{place}, line 1") for word in text.split()]
        if len(values) not in columns or max(values) > 255:
            raise TopologyError(
                f"{place}, line 1: {text.strip()[:200]!r} is not one distance up to 255 "
                f"for each of {len(nids)} online nodes; read again"
            )
        if len(nids) > 1:  # of a single node ia64 says 0
            distance[row] = [values[column] for column in columns[len(values)]]
    return distance, []


def _columns(files: FileTree, nids: list[int]) -> dict[int, list[int]]:
    """Return where in a row of how many distances those to ``nids`` stand: a column for each online node."""
    found = {len(nids): list(range(len(nids)))}
    text = files.read(f"{NODES}/possible")
    if text is not None:
        possible = parse_list(text, files.place(f"{NODES}/possible"), N_NODES_MAX)
        if set(nids) <= set(possible):
            found.setdefault(len(possible), [possible.index(nid) for nid in nids])
    return found


def links(files: FileTree, nids: list[int]) -> dict[tuple[int, int], Link]:
    """Return the HMAT figures of nodes."""
    found: dict[tuple[int, int], Link] = {}
    # access1 is the best CPU initiator, access0 the best initiator of any kind (Documentation/
    # admin-guide/mm/numaperf.rst): where both name a node, the CPU figure counts.
    for access in ("access0", "access1"):
        for nid in nids:
            directory = f"{NODES}/node{nid}/{access}/initiators"
            figures = []
            for key in ("read_latency", "read_bandwidth"):
                text = files.read(f"{directory}/{key}")
                where = f"{files.place(f'{directory}/{key}')}, line 1"
                figures.append(parse_count(text.strip(), "a number", where) if text else 0)
            latency_ns, bandwidth_mb_per_s = figures
            if latency_ns == 0 or bandwidth_mb_per_s == 0:
                continue
            for entry in files.names(directory):
                if re.match("node[0-9]", entry):
                    place = files.place(f"{directory}/{entry}")
                    initiator = parse_count(entry[4:], "a node", place)
                    if initiator in nids:
                        found[initiator, nid] = Link(float(latency_ns), bandwidth_mb_per_s * 1e6)
    return found


def tiers(
    files: FileTree, nids: list[int], with_memory: set[int], cpus: dict[int, tuple[int, ...]]
) -> dict[int, int]:
    """Return the tier of each node: the kernel's, numbered from 0, or else 1 for memory without CPUs."""
    listed: dict[int, tuple[int, ...]] = {}
    top = "sys/devices/virtual/memory_tiering"
    for entry in files.names(top):
        if not re.match("memory_tier[0-9]", entry):
            continue
        name = f"{top}/{entry}/nodelist"
        number = parse_count(entry[len("memory_tier") :], "a tier", files.place(f"{top}/{entry}"))
        members = parse_list(files.read(name) or "", files.place(name), N_NODES_MAX)
        listed[number] = tuple(nid for nid in members if nid in with_memory)
    ordered = [listed[number] for number in sorted(listed) if listed[number]]
    if not ordered:
        near = {nid for nid in with_memory if cpus[nid]} or with_memory
        return {nid: 1 if nid in with_memory - near else 0 for nid in nids}
    # A node without memory is in no tier, and node_is_toptier() holds for it.
    return {nid: next((tier for tier, members in enumerate(ordered) if nid in members), 0) for nid in nids}


def kinds(
    nids: list[int],
    cpus: dict[int, tuple[int, ...]],
    tier_of: dict[int, int],
    gpus: set[int],
    *,
    cpus_are_known: bool = True,
) -> dict[int, MemoryKind]:
    """Return what the memory of each node is.

    A GPU's is that of a node that its driver names, or that firmware of POWER9 machines numbers so. A node
    without CPUs in a tier below all CPUs' memory counts as CXL.
    """
    lowest = max((tier_of[nid] for nid in nids if cpus[nid]), default=0)
    is_sparse = len(nids) <= _POWER9_GPU_NIDS.start
    found = {}
    for nid in nids:
        by_number = is_sparse and nid in _POWER9_GPU_NIDS
        if not cpus[nid] and cpus_are_known and (nid in gpus or by_number):
            found[nid] = MemoryKind.GPU
        elif not cpus[nid] and cpus_are_known and tier_of[nid] > lowest:
            found[nid] = MemoryKind.CXL
        else:
            found[nid] = MemoryKind.DRAM
    return found


def gpu_nodes(files: FileTree) -> set[int]:
    """Return the nodes of GPUs' memory that NVIDIA's driver names (``numa_status``, a line ``Node: 255``)."""
    found = set()
    for gpu in files.names(_GPUS):
        match = re.search(r"^Node:\s*([0-9]{1,6})\s*$", files.read(f"{_GPUS}/{gpu}/numa_status") or "", re.M)
        if match is not None:
            found.add(int(match[1]))
    return found


def parse_list(text: str, place: str, limit: int) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as ``0-3,8``.

    Raises:
        TopologyError: it is none, or a number is not below the limit.
    """
    numbers: list[int] = []
    for part in filter(None, text.strip("\0 \n\t").split(",")):
        first, _, last = part.partition("-")
        low = parse_count(first, "a list of numbers such as 0-3,8", f"{place}, line 1")
        high = parse_count(last, "a list of numbers such as 0-3,8", f"{place}, line 1") if last else low
        if not low <= high < limit or len(numbers) > limit:
            raise TopologyError(
                f"{place}, line 1: {part[:40]!r} is not an ascending range of numbers below {limit:,}; "
                "read again"
            )
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def _parse_mask(text: str, place: str) -> tuple[int, ...]:
    """Return the CPUs of a mask as the kernel writes it (``%*pb``): words of 32 bits, the highest first."""
    stripped = text.strip("\0 \n\t")
    if len(stripped) > CPU_LIMIT or _MASK.fullmatch(stripped) is None:
        raise TopologyError(
            f"{place}, line 1: {stripped[:40]!r} is not a mask of CPUs such as 00000000,0000000f; read again"
        )
    words = stripped.split(",")
    # The highest word of a machine of few CPUs is shorter, all others have eight digits.
    mask = int("".join(word.rjust(8, "0") for word in words), 16)
    return cpus_of_mask(mask)


def cpus_of_mask(mask: int) -> tuple[int, ...]:
    """Return the numbers of the bits that are set, below the limit of CPUs."""
    bits = bin(mask)[:1:-1]
    return tuple(cpu for cpu, bit in enumerate(bits[:CPU_LIMIT]) if bit == "1")
