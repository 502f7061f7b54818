"""Real programs whose pages gpuscan moves: what is read most goes near, all that they hold stays right."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuscan.live.session import LiveTotals
from guest.cgroups import cgroups
from guest.programs.catalogue import NAMES, load
from guest.programs.places import Near, Places
from guest.programs.running import Client, Running, running
from guest.session import Ran, run_live
from guest.shown import note
from guest.test_moves import assert_books_agree

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.programs, pytest.mark.timeout(1500)]

FAR, NEAR, ELSEWHERE = 2, 0, 1
"""Nodes; that of the program's CPU is near, and the client has the other CPU."""
ALONE_S = 10.0
LONGEST_S = 240.0
ENOUGH = 0.6
"""Of all reads. By Zipf's law a fifth of them is spread over four fifths of the pages, and what is read every
few seconds is hot to nobody."""
FAR_STILL = 0.5
"""Of the pages that are not hot: who moves all of them has found nothing out."""
DISTURB_EVERY_S = 20.0
log = logging.getLogger(__name__)


@contextmanager
def far_away(name: str) -> Iterator[tuple[Running, Places, Path]]:
    """Have a program hold all records on the far node; also returns its cgroup."""
    if why := load(name).missing():
        pytest.skip(why)
    with cgroups("gpuscan-programs", ["program"]) as above, running(name, above / "program", NEAR) as program:
        places = Places(program.holder_pid, program.program.shares())
        places.put(FAR)
        log.info("%s: %d pages are far, %d of them hot", name, len(places.pages), places.hot.sum())
        yield program, places, above / "program"


@pytest.mark.parametrize("name", NAMES)
def test_what_it_reads_most_goes_near_and_all_it_holds_stays_right(tmp_path: Path, name: str) -> None:
    near: list[Near] = []
    disturbed_s = time.monotonic()

    def enough(totals: LiveTotals, refused: Counter[str]) -> bool:
        nonlocal disturbed_s
        if time.monotonic() - disturbed_s >= DISTURB_EVERY_S:
            program.program.disturb(program.conversation)
            disturbed_s = time.monotonic()
        near.append(places.near(NEAR))
        now, left = near[-1], dict(totals.skipped.most_common(1))
        log.info(
            "%.1f s: near %.0f%% of reads, %.0f%% of hot pages, %.0f%% of others; moved %d, left %s",
            totals.elapsed_ns / 1e9,
            *(100 * share for share in (now.reads, now.hot, now.others)),
            totals.moved_pages,
            left,
        )
        return now.reads >= ENOUGH

    with far_away(name) as (program, places, cgroup):
        with Client(program, tmp_path, ELSEWHERE) as client:
            time.sleep(ALONE_S)
            began_s = time.monotonic()
            alone = client.pace(began_s - ALONE_S, began_s)
            log.info("%s: alone %s", name, alone)
            monitor = program.program.monitor
            ran = run_live(for_s=LONGEST_S, cgroup=cgroup, monitor=monitor, until=enough)
            beside = client.pace(began_s, time.monotonic())
            last = client.finish()
        near.append(places.near(NEAR))
        stayed = places.are_still_there()
        program.check(last["n_writes"])
        program.end()
    note(f"{name}: " + _said(places, near[-1], ran))
    note(f"{name}: alone {alone}, beside gpuscan {beside}; {last['n_writes']} writes")
    assert stayed, "the records have moved within the program, so where they are says nothing"
    assert near[-1].reads >= ENOUGH
    assert near[-1].others <= FAR_STILL
    assert_books_agree(ran)


def _said(places: Places, near: Near, ran: Ran) -> str:
    return (
        f"{near.hot:.1%} of {places.hot.sum():,} hot pages near, {near.others:.1%} of {(~places.hot).sum()} "
        f"others, so {near.reads:.1%} of reads; moved {ran.totals.moved_pages:,} pages, "
        f"{ran.totals.moved_shared_pages:,} of them shared, in {ran.totals.elapsed_ns / 1e9:.0f} s; "
        f"refused {dict(ran.report.refusals.most_common(3))}, "
        f"left {dict(ran.totals.skipped.most_common(4))}"
    )
