"""Polars' lazy query on its in-memory engine."""

from __future__ import annotations

from functools import partial

from gpuscan.bench.peers.contract import PeerKind
from gpuscan.bench.peers.polars_query import PolarsLazy

PEER = PeerKind(
    about="lazy: filter, group_by; PFNs are a column; in-memory engine",
    make=partial(PolarsLazy, engine="in-memory"),
    imports=("polars",),
    extra="bench",
    label="polars-in-memory",
    style={"color": "#D55E00", "linestyle": "-.", "marker": "v"},
)
