"""What is said of files that hold a trace in a form that is not read."""

from __future__ import annotations

from pathlib import Path

DAMO = "damo report access --json --input"
"""What turns DAMON's regions, however they were recorded, into a trace that is read; a path follows."""

_PACKED = {
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
"""What unpacks a file that is not inflated here, by its first bytes (magic numbers of Zstandard and LZ4)."""


def how_to_unpack(path: Path, start: bytes) -> str:
    """Return what to say of a compressed file, after its name; empty of another."""
    for packed, unpack in _PACKED.items():
        if start.startswith(packed):
            return f"is compressed; unpack it first: {unpack} {path}"
    return ""
