"""What a live run is asked to do. NumPy is not imported here: ``gpuscan live`` loads it its own way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.described import Option, described
from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers
from gpuscan.base.units import parse_rate_bytes_per_s, parse_share, parse_time_ns
from gpuscan.kernels.catalogue import AUTO, device_names
from gpuscan.monitors.catalogue import MONITORS
from gpuscan.monitors.treatment import SHARED

_INTERVAL = "100ms"
INTERVAL_NS = parse_time_ns(_INTERVAL)


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What a live run was asked to do.

    Attributes:
        command, pids, cgroup: exactly one of them says which processes.
        monitor: one of ``gpuscan.monitors.catalogue.MONITORS``, or ``auto`` for the first that works.
        for_ns: how long; None until the processes end.
        rate_limit_bytes_per_s: per target node; None = none.
        to_nid: promote to this node only.
        evacuate_nid: empty this node instead: all their pages leave it, and the run ends.
        demote, cold_after_ns: whether, and after how long, cold pages go to a lower tier.
        shared: whether pages that several processes map move: one of ``SHARED``.
        interval_ns: pause between two looks while there is something to do.
        split_share: of a dry run on a one-node machine: the upper share of its memory that counts
            as CXL memory.
        tiers: that nodes are put into, whatever the kernel says: ``2=1``.
        out, force: where the result is kept, and whether it replaces an earlier one.
        quiet_command: keep the command's standard output out of gpuscan's.
    """

    command: tuple[str, ...] = described(
        (), Option("Start this and watch it.", metavar="-- COMMAND", is_argument=True)
    )
    pids: tuple[int, ...] = described((), Option("A process to watch; can be repeated.", ("--pid",)))
    cgroup: Path | None = described(None, Option("Watch the processes of a cgroup (v2).", metavar="PATH"))
    monitor: str = described(
        "auto",
        Option(
            f"Who tells what is accessed: {', '.join(MONITORS.names)}; auto takes the first that works.",
            metavar="NAME",
            was=("--source",),
        ),
    )
    for_ns: int | None = described(
        None, Option("End after this: 30s, 5min.", ("--for",), metavar="TIME", parse=parse_time_ns)
    )
    dry_run: bool = described(False, Option("Plan and count, move nothing."))
    rate_limit_bytes_per_s: int | None = described(
        None,
        Option(
            "Most that moves to each node: 100MB/s.",
            ("--rate-limit",),
            metavar="RATE",
            parse=parse_rate_bytes_per_s,
        ),
    )
    to_nid: int | None = described(
        None, Option("Promote to this node, not to the nearest with CPUs.", ("--to",), metavar="NID")
    )
    evacuate_nid: int | None = described(
        None,
        Option(
            "Empty a node instead: all their pages there leave, hot or not, then end.",
            ("--evacuate",),
            metavar="NID",
        ),
    )
    demote: bool = described(False, Option("Move cold pages to a lower tier too."))
    cold_after_ns: int = described(
        "10s",
        Option(
            "Cold is what was not accessed for this long.",
            ("--cold-after",),
            metavar="TIME",
            parse=parse_time_ns,
        ),
    )
    shared: str = described(
        SHARED[0],
        Option(
            "Pages that several processes map move where all of those are watched, never, or always.",
            choices=SHARED,
        ),
    )
    interval_ns: int = described(
        _INTERVAL,
        Option(
            "Pause between two looks while pages move.", ("--interval",), metavar="TIME", parse=parse_time_ns
        ),
    )
    split_share: float | None = described(
        None,
        Option(
            "With --dry-run on one node: count the upper 50% of it as CXL.",
            ("--split-cxl",),
            metavar="SHARE",
            parse=parse_share,
        ),
    )
    tiers: tuple[str, ...] = described((), TIER_OPTION)
    device: str = described(AUTO, Option("Where the scan runs.", choices=device_names()))
    n_threads: int | None = described(
        None, Option("Worker threads of the CPU device.", ("--threads",), metavar="N", low=1)
    )
    out: Path | None = described(
        None, Option("Keep the result: series, map, nodes, document.", metavar="DIR")
    )
    force: bool = described(False, Option("Replace earlier results."))
    quiet_command: bool = False

    @property
    def node_tiers(self) -> dict[int, int]:
        """The tiers that nodes are put into, by nid.

        Raises:
            InputError: one is no tier of a node.
        """
        return parse_tiers(self.tiers)
