"""What machine a benchmark ran on, without saying whose."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpuscan import __version__
from gpuscan.base.program import PROGRAM
from gpuscan.bench.peers.catalogue import packages
from gpuscan.kernels.cpu.compile import source_hash

_PACKAGES = ("numpy", "numba", "pyarrow")
_CPUS = Path("/sys/devices/system/cpu")
_LLC_UNKNOWN_BYTES = 32 << 20
_STATUS_KEYS = {"VmRSS": "rss", "VmHWM": "peak"}


def describe_host() -> dict[str, Any]:
    """Return CPU, caches, memory, kernel and package versions, for the report."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        PROGRAM: __version__,
        "kernel_sources": source_hash(),
        "cpu": model.group(1).strip() if model else platform.machine(),
        "n_cpus": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "linux": ".".join(platform.release().split("-")[0].split(".")[:2]),
        "python": platform.python_version(),
        "packages": {
            name: found for name in (*_PACKAGES, *packages()) if (found := _version(name)) is not None
        },
        "load_1min": os.getloadavg()[0],
    }


def llc_bytes() -> int:
    """Return the size of the largest cache of the first CPU; 32 MiB where the kernel does not say."""
    return max(_caches().values(), default=_LLC_UNKNOWN_BYTES)


def _caches() -> dict[str, int]:
    """Return data caches of the first CPU by name, in bytes."""
    found = {}
    for index in sorted(_CPUS.glob("cpu0/cache/index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) << 10
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_now() -> dict[str, int]:
    """Return resident bytes of this process: ``rss`` now and ``peak`` since :func:`reset_peak`."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in _STATUS_KEYS:
            found[_STATUS_KEYS[key]] = int(value.split()[0]) << 10
    return found


def reset_peak() -> bool:
    """Let the peak of :func:`memory_now` begin at what is resident now; False where that is not allowed."""
    try:
        # proc_pid_clear_refs(5): 5 resets the peak resident set size.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
