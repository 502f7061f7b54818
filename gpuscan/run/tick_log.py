"""Reports of ticks as ``ticks.log`` has them: one JSON text each."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import TIME_NS_MAX, table, text, whole
from gpuscan.base.documents import number as decimal
from gpuscan.engine.tick import TickReport
from gpuscan.files.reading import parse_json

TICKS_LOG = "ticks.log"
_NAME_MAX = 100
_METRIC_MAX = 1e300


def tick_entry(report: TickReport) -> bytes:
    """Return the report of a tick as it is kept."""
    return json.dumps(asdict(report), default=_plain).encode()


def tick_report(entry: bytes, number: int) -> TickReport:
    """Return the report of a tick that :func:`tick_entry` made.

    Raises:
        ValueError: it is not that of this tick.
    """
    found = table(parse_json(entry), "a tick", tuple(place.name for place in fields(TickReport)))
    for name, value in found.items():
        if name == "path":
            text(value, name, _NAME_MAX)
        elif name == "metrics":
            for metric, measured in table(value, name).items():
                text(metric, "a metric", _NAME_MAX)
                decimal(measured, -_METRIC_MAX, _METRIC_MAX, metric)
        elif name == "migrate_busy_ns":
            decimal(value, 0, TIME_NS_MAX, name)
        else:
            whole(value, 0, INT64_MAX, name)
    if found["tick"] != number:
        raise ValueError(f"{TICKS_LOG} has tick {found['tick']} where {number} should be")
    return TickReport(**found)


def _plain(value: Any) -> Any:
    return value.tolist()  # a NumPy number among a source's metrics
