"""How the service stands: what is there, hot, moved, refused, by node and policy; its cost; what is next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from gpuscan.base.units import PAGE_BYTES, format_bytes

if TYPE_CHECKING:
    from gpuscan.monitors.source import Member
    from gpuscan.service.governor import PolicyState
    from gpuscan.service.helpers.contract import Moved
    from gpuscan.service.session import ServiceSession


def status_line(service: ServiceSession) -> str:
    """Return one line for a service manager."""
    totals = service.totals
    n = len(service.pipeline.source.processes)
    moved = format_bytes(totals.moved_pages * PAGE_BYTES)
    state = _state(service)
    helped = [rule.name for rule in service.config.rule if not rule.is_own]
    if helped:
        by_kernel = service.helping.moved()
        n_pages = sum(sum(by_kernel[name]) for name in helped)
        moved += f", {format_bytes(n_pages * PAGE_BYTES)} by the kernel"
    problems = [_problem(service), *service.helping.trouble().values()]
    problem = "".join(f"; {one}" for one in problems if one)
    return f"{state}, {n} processes watched, {moved} moved, {totals.own_share:.1%} of a core{problem}"


def _problem(service: ServiceSession) -> str:
    return "; ".join(one for one in (service.problem, service.memory_problem) if one)


def _state(service: ServiceSession) -> str:
    if service.is_paused:
        return "paused"
    if service.is_quiet:
        return "quiet hours"
    return "draining" if service.targets.drained else "running"


def status_document(service: ServiceSession, *, whole: bool = False) -> dict[str, Any]:
    """Return the status; base pages where a name says pages, folios where it says nothing.

    Args:
        service: whose.
        whole: each process, too, and the configuration.
    """
    totals, source = service.totals, service.pipeline.source
    by_kernel = service.helping.moved()
    by_rule: dict[str, list[Member]] = {name: [] for name in service.governor.policies}
    for member in source.members:
        if (name := service.governor.rule_of(member.number)) is not None:
            by_rule[name].append(member)
    document = {
        "state": _state(service),
        "problem": _problem(service),
        "monitor": service.pipeline.monitor.name,
        "sees": service.pipeline.monitor.sees,
        "n_processes": len(source.members),
        "n_left_out": service.selection.n_left_out,
        "n_failed": len(service.roster.failures),
        "ticks": totals.n_ticks,
        "running_s": round(totals.spent_within_s, 3),
        "nodes": [
            {
                "nid": node.nid,
                "tier": node.tier,
                "draining": node.nid in service.targets.drained,
                "resident_pages": totals.resident_pages.get(node.nid, 0),
                "moved_pages": totals.moved_to.get(node.nid, 0),
            }
            for node in service.topology.nodes
            if node.present_pages
        ],
        "policies": [
            _policy(service, name, state, by_rule[name], by_kernel[name])
            for name, state in service.governor.policies.items()
        ],
        "not_candidates": dict(totals.skipped.most_common()),
        "helpers": service.helping.document(),
        "cost": _cost(service),
        "history": {"lost": service.recorder.lost, "problem": service.recorder.problem},
    }
    if whole:
        document["processes"] = [_process(service, member) for member in source.members]
        document["failed"] = [{"pid": pid, "why": why} for pid, why in service.roster.failures.items()]
        document["config"] = service.config.model_dump(mode="json")
        document["notes"] = service.notes
    return document


def _policy(
    service: ServiceSession, name: str, state: PolicyState, members: list[Member], by_kernel: Moved
) -> dict[str, Any]:
    resident: Counter[int] = Counter()
    for member in members:
        resident.update(member.allowance.resident)
    n_moved = state.moved_to.total()
    return {
        "name": name,
        "policy": state.rule.policy,
        "helper": service.helping.helper_of(name),
        "n_processes": len(members) + len(service.selection.helped.get(name, ())),
        "resident_pages": dict(sorted(resident.items())),
        "hot_pages": sum(member.hot_pages for member in members),
        "hot_near_pages": sum(member.hot_near_pages for member in members),
        "cold_pages": sum(member.cold_pages for member in members),
        "promoted_pages": n_moved - state.demoted_pages + by_kernel.promoted_pages,
        "demoted_pages": state.demoted_pages + by_kernel.demoted_pages,
        "moved_by_kernel_pages": sum(by_kernel),
        "moved_pages_to": dict(sorted(state.moved_to.items())),
        "refused": dict(state.refused.most_common()),
        "hot_looks": state.threshold,
        "cold_after_s": state.cold_after_ns / 1e9,
        "next": _next(service, name, state),
    }


def _next(service: ServiceSession, name: str, state: PolicyState) -> dict[str, Any]:
    """Return what would be done next: candidates, how many of them the budget lets go, and when."""
    pause_ns = service.pace.pause_ns(service.started.interval)
    return {
        "candidate_pages": state.pending_pages + state.pending_down_pages,
        "budget_left_pages": service.governor.budgets.left_pages(name),
        "within_s": None if service.is_resting else pause_ns / 1e9,
    }


def _cost(service: ServiceSession) -> dict[str, Any]:
    totals, pace, hold_ups = service.totals, service.pace, service.governor.hold_ups
    return {
        "cpu_share": round(totals.own_share, 5),
        "cpu_ceiling": pace.share,
        "kernel_threads_share": round(totals.kernel_share, 5),
        "look_cpu_ms": round(pace.cost_ns / 1e6, 3),
        "pause_ms": round(pace.pause_ns(service.started.interval) / 1e6, 3),
        "pauses_lengthened": pace.n_lengthened,
        "ceiling_exceeded": pace.n_exceeded,
        "calls": hold_ups.n_calls,
        "call_pages": hold_ups.pages,
        "longest_call_ms": round(hold_ups.longest_ns / 1e6, 3),
        "call_ceiling_ms": hold_ups.limit_ns / 1e6,
        "calls_over_ceiling": hold_ups.n_exceeded,
    }


def _process(service: ServiceSession, member: Member) -> dict[str, Any]:
    return {
        "pid": member.process.pid,
        "command": member.process.comm,
        "rule": service.governor.rule_of(member.number),
        "resident_pages": dict(sorted(member.allowance.resident.items())),
        "hot_pages": member.hot_pages,
        "hot_near_pages": member.hot_near_pages,
        "cold_pages": member.cold_pages,
    }
