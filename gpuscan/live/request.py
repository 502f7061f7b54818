"""What a live run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpuscan.kernels.registry import Device

INTERVAL_NS = 100_000_000
COLD_AFTER_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What a live run was asked to do.

    Attributes:
        pids, cgroup, command: exactly one of them says which processes.
        source: a monitor, or ``auto`` for the first that works.
        for_ns: how long; None until the processes end.
        interval_ns: pause between two looks while there is something to do.
        to_nid: promote to this node only.
        demote, cold_after_ns: whether, and after how long, cold pages go to a lower tier.
        rate_limit_bytes_per_s: per target node; 0 = none.
        dry_run: plan, move nothing.
        split_share: of a dry run on a one-node machine: the upper share of its memory that counts
            as CXL memory.
        device, n_threads: of the scan.
        quiet_command: keep the command's standard output out of gpuscan's.
    """

    pids: tuple[int, ...] = ()
    cgroup: Path | None = None
    command: tuple[str, ...] = ()
    source: str = "auto"
    for_ns: int | None = None
    interval_ns: int = INTERVAL_NS
    to_nid: int | None = None
    demote: bool = False
    cold_after_ns: int = COLD_AFTER_NS
    rate_limit_bytes_per_s: int = 0
    dry_run: bool = False
    split_share: float | None = None
    device: Device = "auto"
    n_threads: int | None = None
    quiet_command: bool = False
