"""Freed memory that stays with the process costs no page faults again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from gpuscan.base import allocator

PROGRAM = """
import resource, sys
import numpy as np
from gpuscan.base.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not taken")
def look():
    return [np.ones(1 << 16, dtype=np.int8) for _ in range(64)]
look()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    look()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def n_faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    if "not taken" in ran.stderr:
        pytest.skip("this C library has no mallopt(3)")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_arrays_that_come_and_go_cost_page_faults_once():
    # 20 times 64 arrays of 16 pages; what is freed goes back to the kernel else, and is faulted in again.
    assert n_faults("keep") < 20 * 64 * 16 // 10


def test_a_library_without_mallopt_goes_on(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
