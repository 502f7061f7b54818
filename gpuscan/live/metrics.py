"""What a live run looks like to Prometheus, for ``--metrics ADDR:PORT``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.live.session import LiveSession

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """Return address and port of ``127.0.0.1:9464``, ``[::1]:9464`` or ``:9464`` (loopback).

    Raises:
        InputError: there is no port in it.
    """
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(f"{text!r} names no port; write for example {LOOPBACK}:9464")
    return address.strip("[]") or LOOPBACK, int(port)


class Exporter:
    """Serves what :meth:`update` last took in, at ``/metrics``, until closed.

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
        self._metrics: list[Metric] = []
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=address, registry=registry)
        except OSError as error:
            raise InputError(
                f"cannot listen at {address}:{port} ({error.strerror or error}); give another --metrics place"
            ) from error

    def update(self, session: LiveSession) -> None:
        """Take in the state of a run after a tick."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        totals, ledger = session.totals, session.engine.ledger

        def gauge(name: str, help_text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"gpuscan_{name}", help_text, value)

        def counters(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
            family = CounterMetricFamily(f"gpuscan_{name}", help_text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            return family

        resident = GaugeMetricFamily(
            "gpuscan_resident_pages", "Base pages of the processes on a node.", labels=["node"]
        )
        for nid, pages in totals.resident_pages.items():
            resident.add_metric([str(nid)], pages)
        moved_to = {str(nid): pages for nid, pages in totals.moved_to.items()}
        cpu_s = CounterMetricFamily("gpuscan_cpu_seconds", "CPU time spent.", labels=["where"])
        cpu_s.add_metric(["gpuscan"], totals.gpuscan_cpu_s)
        cpu_s.add_metric(["kernel_threads"], totals.kernel_cpu_s)
        # One assignment: the server's thread sees all of a tick or nothing of it.
        self._metrics = [
            resident,
            cpu_s,
            gauge("processes", "Processes watched.", len(session.source.processes)),
            gauge("hot_pages", "Base pages seen accessed in the last tick.", totals.hot_pages),
            gauge("hot_near_pages", "Of these, base pages that are near.", totals.hot_near_pages),
            gauge("pending_folios", "Folios that wait to be moved.", ledger.pending),
            gauge("overhead_ratio", "Part of one CPU that was spent.", totals.overhead),
            counters("moved_pages", "Base pages moved to a node.", "node", moved_to),
            counters("refusals", "Folios not moved, by reason.", "reason", dict(session.engine.refusals)),
            counters("skipped_pages", "Pages that were no candidates.", "reason", dict(totals.skipped)),
            CounterMetricFamily("gpuscan_requested_folios", "Requests to move.", ledger.requested),
            CounterMetricFamily("gpuscan_ticks", "Looks at the processes.", totals.n_ticks),
        ]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics (what a registry asks a collector for)."""
        yield from self._metrics

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
