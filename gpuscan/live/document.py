"""The JSON Lines of a live run: one ``start``, one ``tick`` per tick, one ``end``.

Pages are base pages of 4 KiB, folios where the name says nothing. Fields are only ever added.
"""

from __future__ import annotations

from typing import Any

from gpuscan import __version__
from gpuscan.base.program import PROGRAM
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.live.session import LiveSession
from gpuscan.live.totals import LiveTotals
from gpuscan.run.report import ledger_document

_SKIPPED = "skipped."


def start_document(session: LiveSession, startup_s: float) -> dict[str, Any]:
    """Return the line that says that the monitor is on; times count from here.

    Args:
        session: of the run.
        startup_s: how long after the start of gpuscan's process.
    """
    topology = session.topology
    return {
        "event": "start",
        "t_s": 0.0,
        "startup_s": round(startup_s, 3),
        "source": session.monitor.name,
        "source_sees": session.monitor.sees,
        "dry_run": session.request.dry_run,
        "processes": [{"pid": process.pid, "comm": process.comm} for process in session.source.processes],
        "nodes": [
            {
                "nid": node.nid,
                "tier": node.tier,
                "cpus": len(node.cpus),
                "has_memory": bool(node.present_pages),
            }
            for node in topology.nodes
        ],
        "promotion_targets": session.targets.promotion,
        "demotion_targets": session.targets.demotion if session.request.demote else {},
        "resident_pages": session.totals.resident_pages,
        "device": session.store.backend.name,
        "notes": session.notes,
    }


def tick_document(
    session: LiveSession, tick: TickReport, totals: LiveTotals, failed: dict[str, int]
) -> dict[str, Any]:
    """Return the line of one tick; ``failed`` are its refusals by reason."""
    metrics = tick.metrics
    return {
        "event": "tick",
        "tick": tick.tick,
        "t_s": round(totals.elapsed_ns / 1e9, 4),
        "n_processes": len(session.source.processes),
        "resident_pages": totals.resident_pages,
        "hot_pages": totals.hot_pages,
        "hot_near_pages": totals.hot_near_pages,
        "cold_pages": int(metrics.get("cold_pages", 0)),
        "requested": tick.marked,
        "candidates": tick.candidates,
        "planned_pages": tick.candidate_pages,
        "moved": tick.migrated,
        "moved_pages": tick.migrated_pages,
        "failed": failed,
        "dropped": tick.dropped,
        "pending": tick.pending,
        "skipped": {
            name.removeprefix(_SKIPPED): int(value)
            for name, value in metrics.items()
            if name.startswith(_SKIPPED)
        },
        "scan_us": tick.scan_ns / 1e3,
        "observe_us": metrics.get("observe_ns", 0.0) / 1e3,
        "move_us": tick.migrate_busy_ns / 1e3,
        "overhead_percent": round(100 * totals.overhead, 2),
    }


def end_document(session: LiveSession, report: RunReport) -> dict[str, Any]:
    """Return the last line, with the sums of the run."""
    totals = session.totals
    return {
        "event": "end",
        "t_s": round(totals.elapsed_ns / 1e9, 4),
        "reason": totals.failure or totals.end_reason,
        "ticks": totals.n_ticks,
        "resident_pages": totals.resident_pages,
        "planned_pages": totals.planned_pages,
        "planned_pages_to": dict(sorted(totals.planned_to.items())),
        "moved_pages": totals.moved_pages,
        "moved_pages_to": dict(sorted(totals.moved_to.items())),
        "promoted_pages": totals.moved_pages - totals.demoted_pages,
        "demoted_pages": totals.demoted_pages,
        "moved_shared_pages": totals.moved_shared_pages,
        "moved_hugetlb_pages": totals.moved_hugetlb_pages,
        "split_folios": totals.n_split,
        "ledger": ledger_document(report),
        "failed": dict(report.refusals.most_common()),
        "skipped": dict(totals.skipped.most_common()),
        "cpu_s": {"gpuscan": totals.gpuscan_cpu_s, "kernel": totals.kernel_cpu_s},
        "overhead_percent": round(100 * totals.overhead, 2),
        "evacuation": None if session.evacuation is None else session.evacuation.document(),
        "command_exit": totals.command_exit,
        "command_was_ended": totals.command_was_ended,
        "ledger_balanced": not totals.failure,
    }


def kept_document(
    session: LiveSession, report: RunReport, start: dict[str, Any], made_by: str
) -> dict[str, Any]:
    """Return the document of a directory of ``--out``: what was said at the start and at the end.

    Args:
        session, report: of the run, which has ended.
        start: what :func:`start_document` returned.
        made_by: the command line.
    """
    topology = session.topology
    return {
        "kind": "live",
        PROGRAM: __version__,
        "made_by": made_by,
        "machine": {
            "topology": topology.name,
            "memory_bytes": topology.memory_bytes,
            "n_nodes": len(topology.nodes),
        },
        "start": start,
        "end": end_document(session, report),
        "ledger": ledger_document(report),
    }
