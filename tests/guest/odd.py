"""A process that is out of the ordinary, its memory on a far node, a quarter of which it keeps using.

Prints JSON Lines: its PID, where its memory is and what of it is hot. At SIGTERM it ends, with exit status 3
where a page does not hold what was written. It imports little: a start is slow where the CPU is emulated.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import signal
import sys
import time

PAGE_BYTES = mmap.PAGESIZE
WRONG = 3
KINDS = ("plain", "mlocked", "merged", "exec", "forks", "pid-namespace")
# Linux, include/uapi: mempolicy.h, asm-generic/mman-common.h, sched.h, and the x86-64 system call table.
_MPOL_DEFAULT, _MPOL_BIND, _SYS_SET_MEMPOLICY = 0, 2, 238
_MADV_MERGEABLE, _MADV_NOHUGEPAGE, _CLONE_NEWPID = 12, 15, 0x20000000
_N_FORKS, _STORM_S = 16, 1.0

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _allocate_on(nid: int | None) -> None:
    """Take new pages from one node, or from any."""
    mask = ctypes.c_ulong(0 if nid is None else 1 << nid)
    mode = _MPOL_DEFAULT if nid is None else _MPOL_BIND
    pointer, n_bits = (None, 0) if nid is None else (ctypes.byref(mask), 64)
    _checked(_libc.syscall(_SYS_SET_MEMPOLICY, mode, pointer, ctypes.c_ulong(n_bits)))


def _memory(n_bytes: int, nid: int, kind: str) -> mmap.mmap:
    """Return memory on a node, in small pages: each holds its number, or all the same to be merged."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_NOHUGEPAGE)
    _allocate_on(nid)
    for offset in range(0, n_bytes, PAGE_BYTES):
        memory[offset] = 1 if kind == "merged" else _content(offset)
    _allocate_on(None)
    if kind == "merged":
        memory.madvise(_MADV_MERGEABLE)
    return memory


def _content(offset: int) -> int:
    return 1 + offset // PAGE_BYTES % 255


def _storm() -> None:
    """Have children that end at once, all at the same time."""
    pids = [os.fork() for _ in range(_N_FORKS) if os.getpid() == _SELF]
    if os.getpid() != _SELF:
        os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)


def main() -> None:
    """Place, use, and do what it is there for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--mib", type=int, default=8)
    parser.add_argument("--node", type=int, default=2)
    parser.add_argument("--pause-ms", type=float, default=5)
    options = parser.parse_args()
    kind, n_bytes = options.kind, options.mib << 20
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: asked.append(number))
    memory = _memory(n_bytes, options.node, kind)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if kind == "mlocked":
        _checked(_libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes)))
    lo, hi = n_bytes // 4, n_bytes // 2
    hot = slice(lo, hi, PAGE_BYTES)
    expected, storm_s = memory[hot], 0.0
    place = {"pid": os.getpid(), "address": address, "n_bytes": n_bytes, "hot": [lo, hi]}
    sys.stdout.write(json.dumps(place) + "\n")
    sys.stdout.flush()
    while signal.SIGTERM not in asked:
        if memory[hot] != expected:
            sys.exit(WRONG)
        if kind != "merged":  # a write takes a page out of those that are merged
            memory[hot] = expected
        if kind == "forks" and time.monotonic() - storm_s > _STORM_S:
            _storm()
            storm_s = time.monotonic()
        if kind == "exec" and asked:
            os.execv(sys.executable, [sys.executable, "-I", "-S", __file__, *sys.argv[1:]])
        time.sleep(options.pause_ms / 1e3)
    offsets = range(0, n_bytes, PAGE_BYTES)
    whole = all(memory[offset] == (1 if kind == "merged" else _content(offset)) for offset in offsets)
    sys.exit(0 if whole else WRONG)


if "pid-namespace" in sys.argv:
    _checked(_libc.unshare(_CLONE_NEWPID))
    _child = os.fork()
    if _child:
        signal.signal(signal.SIGTERM, lambda *_: None)
        _, _status = os.waitpid(_child, 0)
        sys.exit(os.waitstatus_to_exitcode(_status))
_SELF = os.getpid()
main()
