"""Dumps of a kernel's memory: ELF with a note of VMCOREINFO, and kdump's compressed format.

The note says which kernel it was (VMCOREINFO, Documentation/admin-guide/kdump/vmcoreinfo.rst, v6.12); kdump,
makedumpfile and QEMU (with ``-device vmcoreinfo``) put it before the memory.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.units import format_bytes
from gpuscan.files.reading import open_file
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.topology import Topology

_START_BYTES = 1 << 17
_COMPRESSED = b"KDUMP   "
_ELF, _CORE, _TYPE_AT = b"\x7fELF", b"\x04\x00", 16
_NOTE = b"VMCOREINFO\0"
_FACT = re.compile(rb"[\n\0](OSRELEASE|PAGESIZE|CRASHTIME)=([ -~]{1,100})(?=\n)")
_ROWS = {"OSRELEASE": "kernel", "PAGESIZE": "pages of", "CRASHTIME": "at, in Unix time"}


def _start(path: Path) -> bytes:
    fd = open_file(path)
    try:
        return os.read(fd, _START_BYTES)
    finally:
        os.close(fd)


def _is_one(path: Path) -> bool:
    start = _start(path)
    is_core = start.startswith(_ELF) and start[_TYPE_AT : _TYPE_AT + 2] == _CORE
    return start.startswith(_COMPRESSED) or (is_core and _NOTE in start)


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    start = _start(path)
    on_read(len(start))
    _, _, note = start.partition(_NOTE)
    said = {name.decode(): value.decode() for name, value in reversed(_FACT.findall(note))}
    n_bytes = path.stat().st_size
    shown = shlex.quote(str(path))
    return Findings(
        what="a dump of a kernel's memory",
        rows=(
            ("format", "kdump, compressed" if start.startswith(_COMPRESSED) else "ELF"),
            ("size", format_bytes(n_bytes)),
            *((row, said[name]) for name, row in _ROWS.items() if name in said),
        ),
        facts={"bytes": n_bytes, "vmcoreinfo": said},
        commands=(
            (
                f"gpuscan capture OUT.zarr --core {shown} --symbols VMLINUX",
                "makes a snapshot of it; VMLINUX has that kernel's debug information",
            ),
        ),
    )


FILE_KIND = FileKind(
    about="dumps of a kernel's memory (vmcore)",
    order=78,
    is_one=_is_one,
    look=_look,
)
