"""Snapshots of page flags."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gpuscan.base.units import format_bytes, format_number
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.inspection.machines import machine_facts, machine_rows
from gpuscan.records.page_flags import hot_rule
from gpuscan.snapshot.cgroups import CgroupShare, shares
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology import Topology

_KINDS = ("lru", "anon", "file", "hot", "free")
_N_CGROUPS_SHOWN = 8


def _look(path: Path, machine: Topology | None, on_read: Callable[[int], None]) -> Findings:
    found = Snapshot.read(path)
    frames = found.frames()
    zones = found.zone_pages(frames)
    sums = {kind: sum(zone.pages[kind] for zone in zones) for kind in _KINDS}
    topology = found.topology
    shown = shlex.quote(str(path))
    has_tiers = any(node.present_pages and not topology.is_top_tier(node.nid) for node in topology.nodes)
    split = "" if has_tiers else " --split-cxl 50%"
    charged = [] if found.cgroups is None else shares(found.cgroups, frames)
    pages = ", ".join(f"{format_bytes(n << 12)} {kind}" for kind, n in sums.items())
    return Findings(
        what="a snapshot of page flags",
        rows=(
            ("captured", f"{found.captured_at}, Linux {found.kernel_release}"),
            *machine_rows(topology),
            ("folios", f"{format_number(int(frames.eligible.sum()), 'folio')} that can move"),
            ("pages", f"{pages}; {hot_rule(found.lru_gen)}"),
            *_cgroup_rows(charged),
        ),
        facts={
            **machine_facts(topology),
            "captured_at": found.captured_at,
            "kernel_release": found.kernel_release,
            "n_folios": int(frames.eligible.sum()),
            "n_torn_folios": frames.n_torn,
            "pages": sums,
            **({} if found.cgroups is None else {"cgroups": [share.document() for share in charged]}),
        },
        commands=(
            (f"gpuscan scan {shown}{split}", "shows what would be migrated from it now"),
            (f"gpuscan run cxl-promote --machine {shown}{split}", "runs a workload on it"),
            (
                f"gpuscan run --trace TRACE --machine {shown}{split}",
                "replays accesses that were recorded on it",
            ),
            (f"gpuscan compare {shown}{split}", "puts the designs side by side on it"),
        ),
        notes=found.notes,
    )


def _cgroup_rows(charged: list[CgroupShare]) -> list[tuple[str, str]]:
    """Return a row for each of the largest cgroups."""
    n_all = max(1, sum(share.pages for share in charged))
    rows = [
        (
            "" if place else "cgroups",
            f"{share.cgroup}: {share.pages / n_all:.1%}, {format_bytes(share.pages << 12)}, "
            f"{format_bytes(share.hot_pages << 12)} of it hot",
        )
        for place, share in enumerate(charged[:_N_CGROUPS_SHOWN])
    ]
    if len(charged) > _N_CGROUPS_SHOWN:
        rows.append(("", f"and {len(charged) - _N_CGROUPS_SHOWN:,} more"))
    return rows


FILE_KIND = FileKind(
    about="snapshots (gpuscan capture)",
    order=10,
    is_one=lambda path: (path / "zarr.json").is_file(),
    look=_look,
)
