"""The text of /proc/zoneinfo: every zone's counts, watermarks and place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuscan.base.errors import TopologyError
from gpuscan.records.formats import N_NODES_MAX

_ZONE_HEADER = re.compile(r"Node\s+([0-9]{1,4}),\s+zone\s+(\S+)")
_COUNT = re.compile(r"[0-9]{1,18}")
# zoneinfo_show_print() (mm/vmstat.c, v6.18): "managed" is there since v3.9, "promo" since v6.9.
_ZONES_MAX = N_NODES_MAX * 8
_REQUIRED_COUNTS = ("free", "min", "low", "high", "spanned", "present", "managed")


@dataclass(frozen=True, slots=True)
class ZoneInfo:
    """One zone as /proc/zoneinfo prints it; all counts in pages.

    Attributes:
        nid: node.
        name: zone name, ``DMA`` to ``Device``.
        free: free pages.
        min, low, high: watermarks, a boost in force included.
        promo: promotion watermark; None where the kernel does not print it.
        spanned: from the first to the last PFN, holes included.
        present: spanned without holes.
        managed: owned by the buddy allocator.
        protection: lowmem_reserve, one entry per zone that the kernel was built with.
        start_pfn: first PFN; 0 for an empty zone, for which the kernel prints none.
    """

    nid: int
    name: str
    free: int
    min: int
    low: int
    high: int
    promo: int | None
    spanned: int
    present: int
    managed: int
    protection: tuple[int, ...]
    start_pfn: int


def parse_zoneinfo(text: str, source: str = "/proc/zoneinfo") -> list[ZoneInfo]:
    """Return the zones in the text of /proc/zoneinfo, in its order, empty ones included.

    Args:
        text: the file's text, of any kernel since v3.9.
        source: what errors call the text.

    Raises:
        TopologyError: the text is not a zoneinfo; says the line.
    """
    zones: list[ZoneInfo] = []
    header: tuple[int, int, str] | None = None  # line number, nid, name
    counts: dict[str, int] = {}
    protection: tuple[int, ...] | None = None
    seen: set[tuple[int, str]] = set()

    def finish() -> None:
        if header is None:
            return
        line_number, nid, name = header
        missing = [key for key in _REQUIRED_COUNTS if key not in counts]
        if protection is None:
            missing.append("protection")
        if counts.get("present") and "start_pfn" not in counts:
            missing.append("start_pfn")
        if protection is None or missing:
            raise TopologyError(
                f"{source}, line {line_number}: zone {name} of node {nid} lacks {', '.join(missing)}; "
                "give the whole file"
            )
        if (nid, name) in seen:
            raise TopologyError(
                f"{source}, line {line_number}: zone {name} of node {nid} appears twice; give the file once"
            )
        if len(zones) >= _ZONES_MAX or nid >= N_NODES_MAX:
            raise TopologyError(
                f"{source}, line {line_number}: zone {name} of node {nid} is more than there can be "
                f"(nodes up to {N_NODES_MAX - 1}, {_ZONES_MAX:,} zones); give a /proc/zoneinfo"
            )
        seen.add((nid, name))
        values = {key: counts[key] for key in _REQUIRED_COUNTS}
        zones.append(
            ZoneInfo(
                nid=nid,
                name=name,
                promo=counts.get("promo"),
                protection=protection,
                start_pfn=counts.get("start_pfn", 0),
                **values,
            )
        )

    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{source}, line {number}"
        if words[0] == "Node":
            match = _ZONE_HEADER.match(line)
            if match is None:
                raise TopologyError(
                    f"{where}: {line.strip()!r} names no zone; expected 'Node 0, zone Normal'"
                )
            finish()
            header, counts, protection = (number, int(match[1]), match[2]), {}, None
            continue
        if header is None:
            raise TopologyError(f"{where}: text before the first 'Node N, zone NAME'; give a /proc/zoneinfo")
        if words[0] == "pages" and len(words) == 3:
            words = words[1:]
        if words[0] == "protection:" and protection is None:
            protection = tuple(
                parse_count(entry.strip(), "a page count", where)
                for entry in line.partition("(")[2].rstrip(") ").split(",")
            )
        elif words[0] in (*_REQUIRED_COUNTS, "promo"):
            counts.setdefault(words[0], parse_count(words[-1], "a page count", where))
        elif words[0] == "start_pfn:":
            counts.setdefault("start_pfn", parse_count(words[-1], "a PFN", where))
    finish()
    if not zones:
        raise TopologyError(f"{source} has no zones; give the text of a /proc/zoneinfo")
    return zones


def parse_count(word: str, what: str, where: str) -> int:
    """Return a decimal number as the kernel prints it, at most 18 digits.

    Args:
        word: the digits.
        what, where: what it should be and the place, for the error.

    Raises:
        TopologyError: not a number.
    """
    if _COUNT.fullmatch(word) is None:
        raise TopologyError(f"{where}: {word!r} is not {what}; give the file as the kernel writes it")
    return int(word)
