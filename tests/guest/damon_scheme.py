"""DAMON's own tiering, through its sysfs: promote what is hot on the CPU-less nodes. For the guest only.

Source: Documentation/admin-guide/mm/damon/usage.rst (Linux 6.12).
"""

from __future__ import annotations

from pathlib import Path

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import damon_state
from gpuscan.linux.system import HERE

from .kernel import pfn_ranges

KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds")
SAMPLE_US, AGGREGATION_US, UPDATE_US = 5_000, 100_000, 1_000_000
"""DAMON's defaults."""
LARGEST = (1 << 32) - 1


def n_kdamonds() -> int:
    """Return how many kdamonds are configured."""
    return int((KDAMONDS / "nr_kdamonds").read_text())


def n_working() -> int:
    """Return how many kdamonds are switched on."""
    return sum((KDAMONDS / f"{number}/state").read_text() == "on\n" for number in range(n_kdamonds()))


def who_watches() -> dict[int, int]:
    """Return the PID of each kdamond that is switched on, by the process that it watches."""
    found = {}
    for number in range(n_kdamonds()):
        if (pid := damon_state.kdamond_pid(HERE, number)) > 0:
            target = KDAMONDS / f"{number}/contexts/0/targets/0/pid_target"
            found[int(damon_state.read(HERE, target))] = pid
    return found


def promote_hot(from_nids: tuple[int, ...], target_nid: int, *, min_accesses: int) -> int:
    """Switch ``migrate_hot`` on and return the pid of its kdamond.

    Args:
        from_nids: nodes whose physical memory is watched.
        target_nid: where hot regions go.
        min_accesses: a region is hot when so many of the 20 samples of an aggregation found it accessed.
    """
    _write(KDAMONDS / "nr_kdamonds", 1)
    _write(KDAMONDS / "0/contexts/nr_contexts", 1)
    context = KDAMONDS / "0/contexts/0"
    _write(context / "operations", "paddr")
    for name, value in (("sample", SAMPLE_US), ("aggr", AGGREGATION_US), ("update", UPDATE_US)):
        _write(context / f"monitoring_attrs/intervals/{name}_us", value)
    ranges = [(start, end) for nid, start, end in pfn_ranges() if nid in from_nids]
    _write(context / "targets/nr_targets", 1)
    _write(context / "targets/0/regions/nr_regions", len(ranges))
    for number, (start, end) in enumerate(sorted(ranges)):
        _write(context / f"targets/0/regions/{number}/start", start * PAGE_BYTES)
        _write(context / f"targets/0/regions/{number}/end", end * PAGE_BYTES)
    _write(context / "schemes/nr_schemes", 1)
    scheme = context / "schemes/0"
    _write(scheme / "action", "migrate_hot")
    _write(scheme / "target_nid", target_nid)
    limits = {"sz": (PAGE_BYTES, 1 << 62), "nr_accesses": (min_accesses, LARGEST), "age": (0, LARGEST)}
    for name, (least, most) in limits.items():
        _write(scheme / f"access_pattern/{name}/min", least)
        _write(scheme / f"access_pattern/{name}/max", most)
    _write(KDAMONDS / "0/state", "on")
    return int((KDAMONDS / "0/pid").read_text())


def switch_off() -> None:
    """Stop what runs and leave nothing configured."""
    if n_kdamonds():
        _write(KDAMONDS / "0/state", "off")
    _write(KDAMONDS / "nr_kdamonds", 0)


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))
