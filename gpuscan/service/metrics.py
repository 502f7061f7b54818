"""What the service looks like to Prometheus: all of live's, and what rules did.

Labels are nodes, reasons that gpuscan knows, and names of rules: as many as the configuration has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan import __version__
from gpuscan.live.metrics import Labelled, by_label, counter, counters, gauge, gauges, histogram, of_pipeline

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gpuscan.live.metrics import Exporter
    from gpuscan.service.session import ServiceSession

_EVERY_NS = 1_000_000_000


class Shown:
    """What a service is to call at each of its turns, so that an exporter shows how it stands.

    Args:
        service: which.
        exporter: what serves it.
    """

    def __init__(self, service: ServiceSession, exporter: Exporter) -> None:
        self._service, self._exporter = service, exporter
        self._shown_ns: int | None = None

    def __call__(self) -> None:
        """Show it, once a second at most."""
        now_ns = self._service.now_ns()
        if self._shown_ns is None or now_ns - self._shown_ns >= _EVERY_NS:
            self._shown_ns = now_ns
            self._exporter.show(of_service(self._service))


def of_service(service: ServiceSession) -> list[Metric]:
    """Return all there is to say of a service, as it is after a look."""
    hold_ups, pace = service.governor.hold_ups, service.pace
    draining: Labelled = {
        (str(node.nid),): float(node.nid in service.targets.drained)
        for node in service.topology.nodes
        if node.present_pages
    }
    pause_ns = pace.pause_ns(service.started.interval)
    named: Labelled = {(__version__, service.pipeline.monitor.name): 1.0}
    return [
        *of_pipeline(service.pipeline),
        *_of_rules(service),
        gauges("service_info", "Version, and who tells what is accessed.", ["version", "monitor"], named),
        gauge("paused", "Whether an order let it rest.", service.is_paused),
        gauge("quiet", "Whether it rests because the hours are quiet.", service.is_quiet),
        gauges("node_draining", "Whether a node is being emptied.", ["node"], draining),
        gauge(
            "config_not_in_force",
            "Whether the newest configuration is not, or in part.",
            bool(service.problem),
        ),
        gauge(
            "processes_left_out", "Processes beyond those that can be watched.", service.selection.n_left_out
        ),
        gauge("processes_failed", "Processes let go of for a minute.", len(service.roster.failures)),
        gauge("cpu_ceiling_ratio", "Part of one CPU that gpuscan itself may spend.", pace.share),
        gauge("pause_seconds", "Pause before the next look.", pause_ns / 1e9),
        counter("cpu_ceiling_exceeded", "Looks after which no pause was long enough.", pace.n_exceeded),
        histogram("call_seconds", "How long a call of move_pages(2) took.", hold_ups.took_s),
        gauge("call_ceiling_seconds", "How long one may take.", hold_ups.limit_ns / 1e9),
        counter("calls_over_ceiling", "Calls that took longer.", hold_ups.n_exceeded),
        counter("history_lost_notes", "Notes that the history could not keep.", service.recorder.lost),
    ]


def _of_rules(service: ServiceSession) -> list[Metric]:
    policies = service.governor.policies
    seen = {
        name: dict.fromkeys(("processes", "hot_pages", "hot_near_pages", "cold_pages"), 0)
        for name in policies
    }
    for member in service.pipeline.source.members:
        name = service.governor.rule_of(member.number)
        if name is not None:
            seen[name]["processes"] += 1
            seen[name]["hot_pages"] += member.hot_pages
            seen[name]["hot_near_pages"] += member.hot_near_pages
            seen[name]["cold_pages"] += member.cold_pages
    moved: dict[tuple[str, ...], float] = {}
    refused: dict[tuple[str, ...], float] = {}
    waiting: dict[tuple[str, ...], float] = {}
    by_kernel = service.helping.moved()
    for name, state in policies.items():
        moved[name, "up"] = state.moved_to.total() - state.demoted_pages + by_kernel[name].promoted_pages
        moved[name, "down"] = state.demoted_pages + by_kernel[name].demoted_pages
        seen[name]["processes"] += len(service.selection.helped.get(name, ()))
        refused |= {(name, *reason): n for reason, n in by_label(state.refused).items()}
        waiting[(name,)] = state.pending_pages + state.pending_down_pages

    def gauged(what: str, help_text: str) -> Metric:
        return gauges(f"rule_{what}", help_text, ["rule"], {(name,): of[what] for name, of in seen.items()})

    return [
        *_of_helpers(service),
        gauged("processes", "Processes that go by a rule."),
        gauged("hot_pages", "Base pages seen accessed in the last look."),
        gauged("hot_near_pages", "Of these, base pages that are near."),
        gauged("cold_pages", "Base pages that were not accessed for long."),
        gauges("rule_candidate_pages", "Base pages that wait to be moved.", ["rule"], waiting),
        counters(
            "rule_moved_pages",
            "Base pages moved, up or down, by gpuscan or the kernel.",
            ["rule", "direction"],
            moved,
        ),
        counters("rule_refusals", "Folios not moved, by reason.", ["rule", "reason"], refused),
    ]


def _of_helpers(service: ServiceSession) -> list[Metric]:
    """Return what there is to say of the kernel's helpers; nothing where no rule has one."""
    helpers = service.helping.document()
    if not helpers:
        return []
    trouble: Labelled = {(one["name"],): float(bool(one["trouble"])) for one in helpers}
    spent: Labelled = {(one["name"],): one["cpu_s"] for one in helpers}
    return [
        gauges(
            "helper_in_trouble", "Whether the kernel does not do all that it was told.", ["helper"], trouble
        ),
        counters("helper_cpu_seconds", "CPU time of kernel threads of a helper.", ["helper"], spent),
    ]
