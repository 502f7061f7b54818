"""The table of what is charged to each cgroup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from gpuscan.snapshot.cgroups import CgroupShare

_N_SHOWN = 20


def cgroup_table(shares: Sequence[CgroupShare]) -> Table:
    """Return a table of the largest cgroups and of all others together."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("cgroup")
    for heading in ("folios", "pages", "share", "hot"):
        table.add_column(heading, justify="right")
    n_all = max(1, sum(share.pages for share in shares))
    rows = [(share.cgroup, share.folios, share.pages, share.hot_pages) for share in shares[:_N_SHOWN]]
    others = shares[_N_SHOWN:]
    if others:
        n_folios, n_pages, n_hot = (
            sum(getattr(share, name) for share in others) for name in ("folios", "pages", "hot_pages")
        )
        rows.append((f"{len(others):,} others", n_folios, n_pages, n_hot))
    for name, folios, pages, hot in rows:
        table.add_row(name, f"{folios:,}", f"{pages:,}", f"{pages / n_all:.1%}", f"{hot:,}")
    return table
