"""The guest's first file system: busybox, the modules that mount the host's files, and ``init``."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

from .parts import Parts

INIT = Path(__file__).parent / "init"


def initramfs(parts: Parts, init: Path = INIT) -> bytes:
    """Return a gzipped cpio archive in the form that the kernel unpacks (``newc``)."""
    files = {"init": init, "bin/busybox": parts.busybox}
    files |= {f"modules/{module.name}": module for module in parts.modules}
    entries = [
        _entry(name, stat.S_IFDIR | 0o755)
        for name in ("bin", "modules", "host", "root", "proc", "sys", "dev")
    ]
    entries += [_entry(name, stat.S_IFREG | 0o755, path.read_bytes()) for name, path in files.items()]
    entries.append(_entry("TRAILER!!!", 0))
    return gzip.compress(b"".join(entries), compresslevel=1)


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    """Return a header of 13 hexadecimal fields, the name and the content, each part padded to 4 bytes.

    Source: Documentation/driver-api/early-userspace/buffer-format.rst (Linux 6.12).
    """
    encoded = name.encode() + b"\0"
    inode = uid = gid = mtime = major = minor = device_major = device_minor = checksum = 0
    fields = (
        *(inode, mode, uid, gid, 1, mtime, len(content)),
        *(major, minor, device_major, device_minor, len(encoded), checksum),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
