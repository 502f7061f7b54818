"""An archive of a machine's /proc and /sys, as hwloc-gather-topology makes it; read in memory only.

What it says of itself is not believed: it inflates to a bounded size, of its members only regular files that
describe the machine are taken, and links, devices and names that lead elsewhere are nothing but names.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.units import format_bytes
from gpuscan.files.reading import UnfitError, first_line, open_file, read_file
from gpuscan.topology.contract import START_BYTES, Host, MachineSource
from gpuscan.topology.file_tree import BLOCKS, GATHERED, IOMEM, NODES, ZONEINFO, Files, check_size
from gpuscan.topology.model import HOST
from gpuscan.topology.sysfs import read_tree

PACKED_BYTES_MAX = 64 << 20
BYTES_MAX = 128 << 20
"""Inflated: those of hwloc's tests have up to 8 MB."""
_MEMBERS_MAX = 100_000
_PIECE_BYTES = 1 << 20
_OPENERS: dict[bytes, Callable[[io.BytesIO], bz2.BZ2File | gzip.GzipFile]] = {
    b"BZh": bz2.BZ2File,
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
}
_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"BZh": bz2.BZ2Decompressor,
    b"\x1f\x8b": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
}
_HEAD_BYTES = 512
"""Of the first member of an archive."""
_BLOCK_BYTES_MAX = 1 << 20
"""bzip2 gives nothing before a block of up to 900,000 bytes is whole."""
_NAMED = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?)$")
_TAR_MAGIC, _TAR_AT = b"ustar", 257
_WANTED = re.compile(
    rf"(.*?/|)({NODES}|{BLOCKS}|sys/devices/virtual/memory_tiering|sys/devices/system/cpu/online$"
    rf"|proc/driver/nvidia/gpus|{ZONEINFO}$|{IOMEM}$|{GATHERED}$)(/|$)"
)
"""What says something of a machine, by what is before it: the archive's own directory."""
_AGAIN = "give the archive as hwloc-gather-topology writes it"


def _knows(path: Path, start: bytes) -> bool:
    """Whether it is an archive, packed or not; anything may be packed, traces too."""
    made = next((made for magic, made in _UNPACKERS.items() if start.startswith(magic)), None)
    if made is None:
        return _is_tar(start)
    return _NAMED.search(path.name) is not None or _is_tar(_inflated_start(path, made()))


def _is_tar(start: bytes) -> bool:
    return start[_TAR_AT : _TAR_AT + len(_TAR_MAGIC)] == _TAR_MAGIC


def _inflated_start(path: Path, unpack: Any) -> bytes:
    """Return how what is packed begins; nothing where it breaks before."""
    found = b""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            while len(found) < _HEAD_BYTES and file.tell() < _BLOCK_BYTES_MAX and not unpack.eof:
                data = file.read(START_BYTES)
                if not data:
                    break
                found += unpack.decompress(data, _HEAD_BYTES)
    except (OSError, EOFError, ValueError, zlib.error):
        return b""
    return found


def _read(path: Path) -> Host:
    try:
        packed = read_file(path, PACKED_BYTES_MAX)
    except UnfitError as error:
        raise InputError(f"{path} {error}; {_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable archive") from error
    texts, others = _members(path, _inflated(path, packed))
    prefixes = {
        match[1]
        for name in (*texts, *others)
        if (match := _WANTED.match(name)) and match[2] in (NODES, ZONEINFO)
    }
    if len(prefixes) != 1:
        what = "several machines" if prefixes else f"neither {NODES} nor {ZONEINFO}"
        raise TopologyError(f"{path} has {what} in it; {_AGAIN}")
    (prefix,) = prefixes
    files = Files(
        str(path),
        {
            name.removeprefix(prefix): text.decode(errors="replace")
            for name, text in texts.items()
            if name.startswith(prefix)
        },
        frozenset(name.removeprefix(prefix) for name in others if name.startswith(prefix)),
    )
    return read_tree(files, path.name.partition(".")[0] or HOST)


def _inflated(path: Path, packed: bytes) -> bytes:
    opener = next((made for magic, made in _OPENERS.items() if packed.startswith(magic)), None)
    if opener is None:
        return packed
    inflated = bytearray()
    try:
        with opener(io.BytesIO(packed)) as file:
            while piece := file.read(_PIECE_BYTES):
                inflated += piece
                if len(inflated) > BYTES_MAX:
                    raise TopologyError(f"{path} inflates to more than {format_bytes(BYTES_MAX)}; {_AGAIN}")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, TopologyError):
            raise
        raise TopologyError(f"{path} cannot be inflated ({error}); {_AGAIN}") from error
    return bytes(inflated)


def _members(path: Path, archive: bytes) -> tuple[dict[str, bytes], set[str]]:
    """Return the regular files of an archive that say something of a machine, and the names of all else."""
    texts: dict[str, bytes] = {}
    others: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for number, member in enumerate(tar):
                if number >= _MEMBERS_MAX:
                    raise TopologyError(f"{path} has more than {_MEMBERS_MAX:,} members; {_AGAIN}")
                name = member.name.removeprefix("./")
                if name.startswith("/") or ".." in name.split("/"):
                    continue
                if _WANTED.match(name) is None:
                    continue
                if not member.isreg():
                    others.add(name)
                    continue
                check_size(f"{path}:{name}", member.size)
                file = tar.extractfile(member)
                texts[name] = b"" if file is None else file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, TopologyError):
            raise
        raise TopologyError(f"{path} is cut short or damaged ({first_line(error)}); {_AGAIN}") from error
    return texts, others


MACHINE_SOURCE = MachineSource(
    about="an archive of /proc and /sys (.tar, .tar.gz, .tar.bz2)", knows=_knows, read=_read
)
