"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric


class _Families:
    """A collector of what it was given."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def text_of(families: Sequence[Metric]) -> str:
    """Return what a scrape would say."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry).decode()
