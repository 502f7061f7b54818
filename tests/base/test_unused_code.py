"""Code that is given back: less is resident, and it is there again when it is needed."""

from __future__ import annotations

import subprocess
import sys

from gpuscan.base.unused_code import give_back_code

CHILD = """
from pathlib import Path
import numba
from gpuscan.base.unused_code import give_back_code

def resident_kib():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

before = numba.njit(lambda a: a + 1)
assert before(1) == 2
was = resident_kib()
assert give_back_code() > 1 << 20
now = resident_kib()
after = numba.njit(lambda a: a * 3)
assert (before(2), after(2)) == (3, 6)
print(was, now)
"""


def test_the_compiler_is_given_back_and_still_works():
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    was, now = map(int, done.stdout.split())
    assert now < was - 20 * 1024


def smaps(*mappings):
    return "".join(f"{head}\nRss: 4 kB\nAnonymous: {kib} kB\nVmFlags: rd\n" for head, kib in mappings)


def test_what_was_written_stays(tmp_path, monkeypatch):
    offered = []

    class Libc:
        @staticmethod
        def madvise(start, n_bytes, advice):
            offered.append((start.value, n_bytes.value))
            return 0

    monkeypatch.setattr("gpuscan.base.unused_code.ctypes.CDLL", lambda _: Libc)
    path = "/x/libllvmlite.so"
    text = smaps(
        (f"10000-20000 r--p 00000000 08:01 12                  {path}", 0),
        (f"20000-40000 r-xp 00010000 08:01 12                  {path}", 0),
        (f"40000-50000 r--p 00030000 08:01 12                  {path}", 8),  # relocated, then write-protected
        (f"50000-60000 rw-p 00040000 08:01 12                  {path}", 0),
        ("60000-70000 r-xp 00000000 08:01 13                  /x/libm.so", 0),
        ("70000-80000 rw-p 00000000 00:00 0 ", 0),
    )
    (tmp_path / "smaps").write_text(text)
    assert give_back_code(smaps=tmp_path / "smaps") == 0x30000
    assert offered == [(0x10000, 0x10000), (0x20000, 0x20000)]


def test_where_nothing_is_listed_nothing_is_done(tmp_path):
    assert give_back_code(smaps=tmp_path / "smaps") == 0
