"""What is said of files that hold a trace in a form that is not read."""

from __future__ import annotations

from pathlib import Path

DAMO = "damo report access --json --input"
"""What turns DAMON's regions, however they were recorded, into a trace that is read; a path follows."""

ONLY_PHYSICAL = (
    ", and record physical memory (damo record paddr), or say which page is where: --given pages=FILE "
    "(gpuscan capture --pages)"
)
"""Of regions that may be a process's, after "give the machine it was recorded on"."""

_PACKED = {
    b"\x02\x21\x4c\x18": "unlz4",
    b"\x1f\x9d": "uncompress",
    b"LZIP": "lzip -d",
    b"PK\x03\x04": "unzip",
    b"7z\xbc\xaf\x27\x1c": "7z x",
}
"""What unpacks a file that is not inflated here, by its first bytes (magic numbers of the old LZ4, compress,
lzip, zip and 7-Zip)."""


def how_to_unpack(path: Path, start: bytes) -> str:
    """Return what to say of a compressed file, after its name; empty of another."""
    for packed, unpack in _PACKED.items():
        if start.startswith(packed):
            return f"is compressed; unpack it first: {unpack} {path}"
    return ""
