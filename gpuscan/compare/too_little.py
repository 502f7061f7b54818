"""Designs that saw too little to judge them by, and why."""

from __future__ import annotations

import numpy as np

from gpuscan.base.units import format_count, format_time
from gpuscan.compare.endings import NEVER_FOUND, Endings
from gpuscan.compare.request_list import RequestList
from gpuscan.compare.suite import SeedRun
from gpuscan.designs.catalogue import DESIGNS

ENOUGH = 100
"""Pages found: the p99 of fewer is the latest of them."""


def saw_too_little(run: SeedRun) -> dict[str, str]:
    """Return why designs found too little in a comparison's run, by name: words that follow the name."""
    found: dict[str, str] = {}
    for name, opened in run.opened.items():
        if opened.found < ENOUGH:
            what = f"found {opened.found}" if opened.found else "found nothing"
            found[name] = f"{what} in the open loop: {_why(name, run)}"
    return found


def _why(name: str, run: SeedRun) -> str:
    opened, requests = run.opened[name], run.requests
    if requests.n < ENOUGH:
        return f"the list has {requests.n} requests in all; give more --ticks, or a larger machine"
    if opened.never_ready > opened.requested:
        n_again, n_pages = _marked_again(requests)
        counted = f"{format_count(opened.never_ready)} of {format_count(requests.n)} marks made no page READY"
        if DESIGNS.get(name).counts_accesses == "never":
            return counted
        return (
            f"it wants several accesses of a page, and in the list's {format_time(requests.end_ns)} "
            f"{format_count(n_again)} of {format_count(n_pages)} pages are marked again; give more --ticks"
        )
    lost = Endings.of({**opened.lost, NEVER_FOUND: opened.pending}).lost
    reason = next(iter(lost), "asked for no more")
    n_lost = format_count(sum(lost.values()))
    return f"{n_lost} of {format_count(opened.requested)} requests were lost ({reason})"


def _marked_again(requests: RequestList) -> tuple[int, int]:
    """Return how many pages of a list are marked more than once, and how many there are."""
    _, n_marks = np.unique(requests.entries()["pfn"], return_counts=True)
    return int(np.count_nonzero(n_marks > 1)), len(n_marks)
