"""Polars' lazy query on its streaming engine, the faster one for it."""

from __future__ import annotations

from functools import partial

from gpuscan.bench.peers.contract import PeerKind
from gpuscan.bench.peers.polars_query import PolarsLazy

PEER = PeerKind(
    about="lazy: filter, group_by; PFNs are a column; streaming engine",
    make=partial(PolarsLazy, engine="streaming"),
    imports=("polars",),
    extra="bench",
    label="polars",
    style={"color": "#D55E00", "marker": "v"},
)
