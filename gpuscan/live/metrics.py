"""What a live run looks like to Prometheus, for ``--metrics ADDR:PORT``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.migrate.reasons import label

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gpuscan.base.histogram import Histogram
    from gpuscan.live.pipeline import Pipeline
    from gpuscan.live.session import LiveSession


class Exporter:
    """Serves what it was last given, at ``/metrics``, until closed.

    Args:
        address, port: where to listen.

    Raises:
        InputError: prometheus-client is not installed, or the place cannot be listened at.
    """

    def __init__(self, address: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise InputError(
                "--metrics needs prometheus-client, which is not installed: "
                f"{install_command('live', 'prometheus-client')}"
            ) from None
        registry = CollectorRegistry()
        self._metrics: Sequence[Metric] = []
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=address, registry=registry)
        except OSError as error:
            raise InputError(
                f"cannot listen at {address}:{port} ({error.strerror or error}); give another --metrics place"
            ) from error

    def update(self, session: LiveSession) -> None:
        """Take in the state of a run after a tick."""
        self.show(of_pipeline(session.pipeline))

    def show(self, metrics: Sequence[Metric]) -> None:
        """Serve these from now on."""
        # One assignment: the server's thread sees all of a tick or nothing of it.
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics (what a registry asks a collector for)."""
        yield from self._metrics

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def gauge(name: str, help_text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"gpuscan_{name}", help_text, value)


def counter(name: str, help_text: str, value: float) -> Metric:
    """Return a counter without labels; its name ends in ``_total`` where it is shown."""
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"gpuscan_{name}", help_text, value)


Labelled = Mapping[tuple[str, ...], float]


def gauges(name: str, help_text: str, labels: Sequence[str], values: Labelled) -> Metric:
    """Return a gauge with a value for each tuple of labels."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"gpuscan_{name}", help_text, labels=labels)
    for which, value in values.items():
        family.add_metric(which, value)
    return family


def counters(name: str, help_text: str, labels: Sequence[str], values: Labelled) -> Metric:
    """Return a counter with a value for each tuple of labels."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"gpuscan_{name}", help_text, labels=labels)
    for which, value in values.items():
        family.add_metric(which, value)
    return family


def histogram(name: str, help_text: str, values: Histogram) -> Metric:
    """Return a histogram."""
    from prometheus_client.core import HistogramMetricFamily

    buckets = [("+Inf" if math.isinf(bound) else str(bound), n) for bound, n in values.cumulative()]
    return HistogramMetricFamily(f"gpuscan_{name}", help_text, buckets, values.total)


def by_label(refusals: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    """Return refusals by reasons that there is an end of."""
    found: dict[tuple[str, ...], float] = {}
    for reason, n in refusals.items():
        found[(label(reason),)] = found.get((label(reason),), 0) + n
    return found


def of_pipeline(pipeline: Pipeline) -> list[Metric]:
    """Return what there is to say of any pipeline. Labels are nodes and reasons that gpuscan knows."""
    totals, ledger = pipeline.totals, pipeline.engine.ledger
    resident: Labelled = {(str(nid),): pages for nid, pages in totals.resident_pages.items()}
    moved_to: Labelled = {(str(nid),): pages for nid, pages in totals.moved_to.items()}
    cpu_s: Labelled = {("gpuscan",): totals.gpuscan_cpu_s, ("kernel_threads",): totals.kernel_cpu_s}
    skipped: Labelled = {(reason,): n for reason, n in totals.skipped.items()}
    return [
        gauges("resident_pages", "Base pages of the processes on a node.", ["node"], resident),
        counters("cpu_seconds", "CPU time spent.", ["where"], cpu_s),
        gauge("processes", "Processes watched.", len(pipeline.source.processes)),
        gauge("hot_pages", "Base pages seen accessed in the last tick.", totals.hot_pages),
        gauge("hot_near_pages", "Of these, base pages that are near.", totals.hot_near_pages),
        gauge("pending_folios", "Folios that wait to be moved.", ledger.pending),
        gauge("overhead_ratio", "Part of one CPU that was spent.", totals.overhead),
        gauge(
            "own_cpu_ratio", "Part of one CPU that gpuscan itself spent, since its start.", totals.own_share
        ),
        counters("moved_pages", "Base pages moved to a node.", ["node"], moved_to),
        counter("demoted_pages", "Of these, base pages moved to a lower tier.", totals.demoted_pages),
        counter("moved_shared_pages", "Of those moved, pages that several map.", totals.moved_shared_pages),
        counter("moved_hugetlb_pages", "Of those moved, pages of hugetlbfs.", totals.moved_hugetlb_pages),
        counter("planned_pages", "Base pages that scans claimed to be moved.", totals.planned_pages),
        counters("refusals", "Folios not moved, by reason.", ["reason"], by_label(pipeline.engine.refusals)),
        counters("skipped_pages", "Pages that were no candidates.", ["reason"], skipped),
        counter("requested_folios", "Requests to move.", ledger.requested),
        counter("ticks", "Looks at the processes.", totals.n_ticks),
        histogram("look_seconds", "How long a look at the processes took.", totals.look_s),
        histogram("scan_seconds", "How long the scans of a look took.", totals.scan_s),
        histogram("batch_seconds", "How long a batch of up to 2,048 pages took to move.", totals.batch_s),
        histogram(
            "seen_to_moved_seconds", "From when a folio was first seen to when it had moved.", totals.waited_s
        ),
    ]
