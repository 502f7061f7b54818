"""Trees of /proc and /sys for tests, written by hand: as files, and as archives of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zone_texts import empty_zones, zone

NODE = "sys/devices/system/node"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below ``root``, and return it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(nid: int, kib: int) -> str:
    """Return the text of nodeN/meminfo."""
    return f"\nNode {nid} MemTotal:    {kib:>10} kB\nNode {nid} MemFree:          0 kB\n"


def gathered(
    nodes: Mapping[int, tuple[str, int]], distances: Mapping[int, str] | None = None, page_bytes: int = 4096
) -> dict[str, str]:
    """Return a tree without /proc/zoneinfo, as hwloc-gather-topology makes one.

    Args:
        nodes: CPU list and KiB by nid.
        distances: rows by nid; None: no files.
        page_bytes: as ``proc/hwloc-nofile-info`` has it.
    """
    files = {
        "proc/hwloc-nofile-info": f"OSName: Linux\nArchitecture: ppc64le\nPageSize: {page_bytes}\n",
        f"{NODE}/online": ",".join(map(str, sorted(nodes))) + "\n",
    }
    for nid, (cpus, kib) in nodes.items():
        files[f"{NODE}/node{nid}/cpulist"] = f"{cpus}\n"
        files[f"{NODE}/node{nid}/meminfo"] = meminfo(nid, kib)
        if distances is not None:
            files[f"{NODE}/node{nid}/distance"] = f"{distances[nid]}\n"
    return files


def zoned(nodes: Mapping[int, tuple[str, int]], distances: Mapping[int, str]) -> dict[str, str]:
    """Return a tree with /proc/zoneinfo: one Normal zone a node, of so many pages, from PFN 1 Mi on."""
    files = {f"{NODE}/online": ",".join(map(str, sorted(nodes))) + "\n", "proc/zoneinfo": ""}
    start = 1 << 20
    for nid, (cpus, n_pages) in sorted(nodes.items()):
        files[f"{NODE}/node{nid}/cpulist"] = f"{cpus}\n"
        files[f"{NODE}/node{nid}/distance"] = f"{distances[nid]}\n"
        normal = zone(nid, "Normal", start, n_pages) if n_pages else empty_zones(nid, "Normal")
        text = empty_zones(nid, "DMA", "DMA32") + normal + empty_zones(nid, "Movable", "Device")
        files["proc/zoneinfo"] += text
        start += -(-n_pages // (1 << 15)) * (1 << 15)
    return files


def archive(
    files: Mapping[str, str],
    below: str = "server7/",
    kind: str = "bz2",
    more: tuple[tarfile.TarInfo, ...] = (),
) -> bytes:
    """Return an archive of a tree, with further members that have no content."""
    packed = io.BytesIO()
    mode: Any = f"w:{kind}"
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(below + name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for member in more:
            tar.addfile(member)
    return packed.getvalue()


NUMACTL = """available: 3 nodes (0-2)
node 0 cpus: 0 1 2 3
node 0 size: 2048 MB
node 0 free: 1000 MB
node 1 cpus: 4 5 6 7
node 1 size: 2047 MB
node 1 free: 900 MB
node 2 cpus:
node 2 size: 4096 MB
node 2 free: 4000 MB
node distances:
node   0   1   2
  0:  10  21  17
  1:  21  10  27
  2:  17  27  10
"""
LSTOPO = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x000000ff">
    <object type="Package" os_index="0" cpuset="0x0000000f">
      <object type="NUMANode" os_index="0" cpuset="0x0000000f" local_memory="2147483648">
        <page_type size="65536" count="32768"/>
      </object>
      <object type="NUMANode" os_index="2" cpuset="0x0000000f" local_memory="4294967296"/>
    </object>
    <object type="Package" os_index="1" cpuset="0x000000f0">
      <object type="NUMANode" os_index="1" cpuset="0x000000f0" local_memory="2147479552"/>
      <object type="NUMANode" os_index="9" cpuset="0x0" local_memory="1073741824" subtype="GPUMemory"/>
    </object>
  </object>
  <distances2 type="NUMANode" nbobjs="4" kind="5" name="NUMALatency" indexing="os">
    <indexes length="8">0 2 1 9 </indexes>
    <u64values length="24">10 17 21 80 17 10 27 </u64values>
    <u64values length="24">80 21 27 10 80 80 80 80 10 </u64values>
  </distances2>
</topology>
"""
