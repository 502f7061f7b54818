"""Give back the memory of a library's code that is not needed any more.

Numba takes LLVM along: some 100 MiB are touched when it is loaded, and nothing of it is run once all kernels
are. These are pages of a file, unchanged: whoever needs one again has it again.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_MADV_DONTNEED = 4
COMPILER = "libllvmlite"
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")
_ANONYMOUS = re.compile(r"Anonymous: +([0-9]+) kB")


def give_back_code(name: str = COMPILER, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Take a library out of this process's page tables, but for what was written of it.

    Args:
        name: in its file's name.
        smaps: where mappings are listed.

    Returns:
        How many bytes of its mappings that were.
    """
    try:
        lines = smaps.read_text().splitlines()
    except OSError:
        return 0
    libc, n_bytes, at = ctypes.CDLL(None), 0, None
    for line in lines:
        if head := _HEAD.fullmatch(line):
            start, end = int(head[1], 16), int(head[2], 16)
            is_code = name in Path(head[4]).name and "w" not in head[3]
            at = (start, end - start) if is_code else None
        elif at is not None and (changed := _ANONYMOUS.match(line)):
            # A page that was changed, by a relocation for example, would be lost.
            if changed[1] == "0" and not libc.madvise(
                ctypes.c_void_p(at[0]), ctypes.c_size_t(at[1]), ctypes.c_int(_MADV_DONTNEED)
            ):
                n_bytes += at[1]
            at = None
    return n_bytes
