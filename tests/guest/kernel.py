"""What the guest's kernel says: where pages are, what it moved, its settings, its log."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import syscalls
from gpuscan.topology.zoneinfo import parse_zoneinfo

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_PRESENT, _PFN_BITS = np.uint64(63), np.uint64((1 << 55) - 1)
_TROUBLE = re.compile(
    r"WARNING:|BUG:|Oops|general protection|kernel NULL pointer|soft lockup|hung_task|blocked for more than"
    r"|rcu.*(stall|starved)|Bad page|Bad rss|page allocation failure|Out of memory|oom-kill|Call Trace"
)


def vmstat() -> dict[str, int]:
    """Return /proc/vmstat."""
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in lines}


def other_moves() -> dict[str, int]:
    """Return what shows that somebody else has moved pages: compaction, NUMA balancing, demotion."""
    others = ("compact_", "numa_pages_migrated", "pgdemote_")
    return {name: value for name, value in vmstat().items() if name.startswith(others)}


def settle() -> None:
    """Keep the kernel from moving pages for reasons of its own: they would be counted among ours."""
    set_numa_balancing(0)
    set_demotion(False)
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    Path("/proc/sys/vm/compaction_proactiveness").write_text("0")


def set_numa_balancing(mode: int) -> None:
    """Set NUMA balancing: 0 off, 1 between nodes with CPUs, 2 between memory tiers."""
    Path("/proc/sys/kernel/numa_balancing").write_text(str(mode))


def set_demotion(on: bool) -> None:
    """Let reclaim demote, or not."""
    Path("/sys/kernel/mm/numa/demotion_enabled").write_text("true" if on else "false")


def high_watermark_mib(nid: int) -> int:
    """Return the sum of a node's high watermarks, rounded up."""
    zones = parse_zoneinfo(Path("/proc/zoneinfo").read_text(), "/proc/zoneinfo")
    return -(-sum(zone.high for zone in zones if zone.nid == nid) * PAGE_BYTES // (1 << 20))


@cache
def pfn_ranges() -> tuple[tuple[int, int, int], ...]:
    """Return what the zones span: node, first PFN, PFN after the last."""
    zones = parse_zoneinfo(Path("/proc/zoneinfo").read_text(), "/proc/zoneinfo")
    return tuple((zone.nid, zone.start_pfn, zone.start_pfn + zone.spanned) for zone in zones if zone.spanned)


def nodes_of(pfns: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the node of each PFN; -1 for 0, a page that is not there."""
    nids = np.full(pfns.shape, -1, dtype=np.int64)
    for nid, start, end in pfn_ranges():
        nids[(pfns >= start) & (pfns < end) & (pfns > 0)] = nid
    return nids


def page_nodes(pid: int, address: int, n_bytes: int) -> NDArray[np.int64]:
    """Return the node of every page of a stretch of a process; -1 where none is mapped."""
    return nodes_of(page_frames(pid, address, n_bytes))


def page_frames(pid: int, address: int, n_bytes: int) -> NDArray[np.uint64]:
    """Return the PFN of every page of a stretch of a process; 0 where none is mapped."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        file.seek(address // PAGE_BYTES * 8)
        entries = np.frombuffer(file.read(n_bytes // PAGE_BYTES * 8), dtype=np.uint64)
    return np.where(entries >> _PRESENT, entries & _PFN_BITS, np.uint64(0))


def place(pid: int, address: int, n_bytes: int, nid: int) -> None:
    """Move a stretch of a process's memory to a node, all of it; no policy stays behind."""
    addresses = np.arange(address, address + n_bytes, PAGE_BYTES, dtype=np.uint64)
    for _ in range(10):  # a page that is on its way to an LRU list is busy
        _, status = syscalls.move_pages(pid, addresses, np.full(len(addresses), nid, dtype=np.int32))
        if (status == nid).all():
            return
    raise AssertionError(f"not on node {nid}, by status: {np.unique(status, return_counts=True)}")


def numa_maps(pid: int, address: int, end: int) -> dict[int, int]:
    """Return how many base pages of the mappings that begin in ``[address, end)`` are on which node."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        start, *words = line.split()
        if not address <= int(start, 16) < end:
            continue
        # The unit of N<nid>= is the mapping's page size, 4 KiB also where it has THPs.
        for nid, n_pages in re.findall(r"N(\d+)=(\d+)", " ".join(words)):
            found[int(nid)] = found.get(int(nid), 0) + int(n_pages)
    return found


def huge_bytes(pid: int, address: int) -> int:
    """Return how much of the mapping at ``address`` is in transparent huge pages."""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) << 10
    return 0


def cpu_s(pid: int) -> tuple[float, float]:
    """Return the seconds that a process spent in user and in system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / CLOCK_TICKS_PER_S, int(fields[12]) / CLOCK_TICKS_PER_S


def log_position() -> int:
    """Return the number of the next message of the kernel's log."""
    messages = _log()
    return messages[-1][0] + 1 if messages else 0


def trouble_since(position: int) -> list[str]:
    """Return what the kernel has complained about since a position in its log."""
    return [text for number, text in _log() if number >= position and _TROUBLE.search(text)]


def _log() -> list[tuple[int, str]]:
    # Documentation/ABI/testing/dev-kmsg: "level,number,time,flags;text", one message per read.
    descriptor, messages = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), []
    try:
        while True:
            head, _, text = os.read(descriptor, 8192).decode(errors="replace").partition(";")
            messages.append((int(head.split(",")[1]), text.rstrip()))
    except BlockingIOError:
        return messages
    finally:
        os.close(descriptor)
