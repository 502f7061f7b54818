"""System calls that Python has no function for, through ctypes.

Numbers and structures are the kernel's ABI: arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h (arm64, riscv64), include/uapi/linux/fs.h (PAGEMAP_SCAN, since v6.7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError

MPOL_MF_MOVE = 1 << 1
"""Move pages that only this process maps."""
MPOL_MF_MOVE_ALL = 1 << 2
"""Move pages whoever maps them, which takes CAP_SYS_NICE."""

_MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239}
_NOT_WRITTEN = np.int32(-(1 << 31))
"""No errno, no node: what a status has that the kernel did not write."""

_libc = ctypes.CDLL(None, use_errno=True)


def move_pages_number() -> int:
    """Return the number of move_pages(2) on this machine.

    Raises:
        InputError: gpuscan does not know it.
    """
    machine = platform.machine()
    if machine not in _MOVE_PAGES:
        raise InputError(
            f"the number of move_pages(2) on {machine} is not known to gpuscan; "
            f"run it on one of {', '.join(_MOVE_PAGES)}"
        )
    return _MOVE_PAGES[machine]


def move_pages(
    pid: int, addresses: NDArray[np.uint64], nodes: NDArray[np.int32] | None, *, of_all: bool = False
) -> tuple[int, NDArray[np.int32]]:
    """Call move_pages(2) once.

    Args:
        pid: of the process whose addresses these are.
        addresses: uint64[n].
        nodes: int32[n], where each page shall go; None asks where they are.
        of_all: also pages that other processes map; else these have the status EACCES.

    Returns:
        What the call returned (0; the number of pages not moved; or -errno), and int32[n]: the
        status of each page, :data:`NOT_WRITTEN` where the kernel wrote none.
    """
    addresses = np.ascontiguousarray(addresses, dtype=np.uint64)
    status = np.full(len(addresses), _NOT_WRITTEN, dtype=np.int32)
    if nodes is not None:
        nodes = np.ascontiguousarray(nodes, dtype=np.int32)
    returned: int = _libc.syscall(
        ctypes.c_long(move_pages_number()),
        ctypes.c_long(pid),
        ctypes.c_ulong(len(addresses)),
        ctypes.c_void_p(addresses.ctypes.data),
        ctypes.c_void_p(0 if nodes is None else nodes.ctypes.data),
        ctypes.c_void_p(status.ctypes.data),
        ctypes.c_long(MPOL_MF_MOVE_ALL if of_all else MPOL_MF_MOVE),
    )
    return (-ctypes.get_errno() if returned < 0 else returned), status


NOT_WRITTEN = int(_NOT_WRITTEN)


class CapabilitySets(NamedTuple):
    """Of one thread, each a mask with bit n for capability n (capabilities(7))."""

    effective: int
    permitted: int
    inheritable: int


_CAPABILITY_VERSION_3 = 0x2008_0522
"""_LINUX_CAPABILITY_VERSION_3 (include/uapi/linux/capability.h): 64 bits a set, in two words."""


def capget() -> CapabilitySets:
    """Return the capabilities of the calling thread.

    Raises:
        OSError: the kernel refuses.
    """
    words = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), words))
    return CapabilitySets(*(words[place] | words[place + 3] << 32 for place in range(3)))


def capset(sets: CapabilitySets) -> None:
    """Give the calling thread these capabilities; other threads keep theirs.

    Raises:
        OSError: EPERM where they are more than it may have.
    """
    low, high = [one & 0xFFFF_FFFF for one in sets], [one >> 32 for one in sets]
    _checked(
        _libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(*low, *high))
    )


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2), which is about the calling thread, and return what it returned.

    Raises:
        OSError: the kernel refuses.
    """
    padded = [*arguments, 0, 0, 0, 0][:4]
    return _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)))


def _checked(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned


class PageIs(IntFlag):
    """Categories of PAGEMAP_SCAN."""

    WPALLOWED = 1 << 0
    WRITTEN = 1 << 1
    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6
    SOFT_DIRTY = 1 << 7


class _ScanArgument(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    ]


_REGION = np.dtype([("start", np.uint64), ("end", np.uint64), ("categories", np.uint64)])
_N_REGIONS = 1024
_PAGEMAP_SCAN = (3 << 30) | (ctypes.sizeof(_ScanArgument) << 16) | (ord("f") << 8) | 16
_PM_SCAN_WP_MATCHING = 1 << 0
_PM_SCAN_CHECK_WPASYNC = 1 << 1


def pagemap_scan(
    fd: int,
    start: int,
    end: int,
    required: PageIs,
    *,
    excluded: PageIs | None = None,
    write_protect: bool = False,
) -> NDArray[np.int64]:
    """Find the pages of a range that are in all of ``required`` and none of ``excluded``.

    Args:
        fd: an open /proc/PID/pagemap.
        start, end: addresses, whole pages.
        required, excluded: the categories.
        write_protect: arm the pages that are found anew (they belong to a userfaultfd in its
            asynchronous write-protect mode).

    Returns:
        int64[n, 2], address ranges ``[start, end)``, ascending.

    Raises:
        OSError: ENOTTY where the kernel has no PAGEMAP_SCAN (before v6.7), EPERM where a page to
            arm is in no such userfaultfd.
    """
    found: list[NDArray[np.int64]] = []
    excluded = excluded or PageIs(0)
    regions = np.empty(_N_REGIONS, dtype=_REGION)
    flags = _PM_SCAN_WP_MATCHING | _PM_SCAN_CHECK_WPASYNC if write_protect else 0
    while start < end:
        argument = _ScanArgument(
            size=ctypes.sizeof(_ScanArgument),
            flags=flags,
            start=start,
            end=end,
            vec=regions.ctypes.data,
            vec_len=len(regions),
            category_inverted=int(excluded),
            category_mask=int(required | excluded),
            return_mask=int(required) or int(PageIs.PRESENT),
        )
        n_regions = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
        if n_regions:
            part = regions[:n_regions]
            found.append(np.stack([part["start"], part["end"]], axis=1).astype(np.int64))
        if argument.walk_end <= start:
            break
        start = argument.walk_end
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def has_pagemap_scan() -> bool:
    """Whether the kernel has PAGEMAP_SCAN."""
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        pagemap_scan(fd, 0, 4096, PageIs.PRESENT)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    finally:
        os.close(fd)
    return True


def has_soft_dirty() -> bool:
    """Whether the kernel keeps soft-dirty bits: a page that was just written has its bit set."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        address = np.frombuffer(page, dtype=np.uint8).ctypes.data
        fd = os.open("/proc/self/pagemap", os.O_RDONLY)
        try:
            word = int.from_bytes(os.pread(fd, 8, address // mmap.PAGESIZE * 8), "little")
        finally:
            os.close(fd)
    return bool(word >> 55 & 1)
