"""Traces of kmigrated are read whole or not at all, and a replay finds a batch that is not the model's."""

from __future__ import annotations

import pytest

from gpuscan.designs.machine import BatchCall, ZoneSpan
from gpuscan.designs.rfc import RfcFixed
from kmigrated.events import TraceError, parse
from kmigrated.replay import Replayed, replay

ZONES = (ZoneSpan(0, 0, 16), ZoneSpan(0, 16, 64), ZoneSpan(1, 64, 128), ZoneSpan(2, 128, 2048))
"""Node 0 has two zones."""

MIXED = """
p A 84 0
p A 82 1
p A 83 2
p A 90 0
2 W 2
2 G 82 1
2 F -1 0
2 G 83 2
2 G 84 0
2 G 90 0
2 F 0 3 last
2 E 2
"""
"""Targets 1, 0, 0 in one batch, to the node of the last; page 0x83 is at home."""


def traced(events: str) -> str:
    """Return a trace: of each line the task (``p``: a process, else a node's thread) and what it says."""
    said = [line for line in events.splitlines() if line]
    lines = [
        "# tracer: nop",
        "#",
        f"# entries-in-buffer/entries-written: {len(said)}/{len(said)}   #P:2",
        "#",
    ]
    lines.append("#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION")
    for number, line in enumerate(said):
        who, what = line.split(" ", 1)
        task, where = ("some-task-310", "a_fault") if who == "p" else (f"kmigrated{who}-4{who}", "a_walk")
        lines.append(f"{task:>20}  [001] .....  {10 + number / 1e6:.6f}: {where}: {what}")
    return "\n".join([*lines, ""])


def replayed(events: str) -> Replayed:
    return replay(parse(traced(events)), ZONES)


def test_a_trace_is_marks_and_walks() -> None:
    trace = parse(traced(MIXED))
    assert [(mark.pfn, mark.nid) for mark in trace.marks] == [(0x84, 0), (0x82, 1), (0x83, 2), (0x90, 0)]
    (walk,) = trace.walks
    assert (walk.nid, walk.t_s) == (2, 10.000004)
    assert walk.batches == [BatchCall((), -1), BatchCall((0x90, 0x84, 0x82), 0)]


def test_lines_of_others_are_passed_over_and_a_walk_that_is_cut_off_is_left_out() -> None:
    other = "          <idle>-0       [000] d.h1.    12.000000: suspend_resume: machine_suspend[0] begin\n"
    trace = parse(other + traced(MIXED + "2 W 2\n2 G 99 0\n2 F -1 0\n") + other)
    assert len(trace.walks) == 1


def test_threads_of_two_nodes_take_turns() -> None:
    done = replayed(
        "p A 81 1\np A 41 0\n2 W 2\n1 W 1\n1 G 41 0\n2 G 81 1\n2 F -1 0\n1 F -1 0\n1 F 0 1 last\n1 E 1\n"
        "2 F 1 1 last\n2 E 2"
    )
    assert (done.n_walks, done.n_batches, done.n_folios, done.differences) == (2, 2, 2, [])


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        ("2 F 0 3 last", "2 F 0 2 last", "3 pages were for the list"),
        ("2 F 0 3 last\n", "", "has 3 pages for the list"),
        ("2 G 82 1", "2 G 82", "not complete"),
        ("2 W 2\n", "", "outside of a walk"),
        ("2 F -1 0", "2 W 2", "a walk begins in a walk"),
        ("2 E 2", "2 E 1", "the walk of node 2"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused(line: str, instead: str, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        parse(traced(MIXED.replace(line, instead, 1)))


@pytest.mark.parametrize(
    "gap", ["CPU:1 [LOST 12 EVENTS]", "# entries-in-buffer/entries-written: 9/12   #P:2"]
)
def test_a_trace_with_lost_events_is_refused(gap: str) -> None:
    with pytest.raises(TraceError, match="buffer was too small"):
        parse(traced(MIXED) + gap + "\n")


def test_batches_of_the_kernel_are_those_of_the_model() -> None:
    done = replayed(MIXED)
    assert done.differences == []
    assert (done.n_walks, done.n_marked_walks, done.n_batches, done.n_folios) == (1, 1, 1, 3)
    assert (done.n_taken, done.n_at_home, done.n_mixed, done.n_elsewhere, done.n_off_lru) == (4, 1, 1, 1, 0)


def test_the_corrected_thread_is_told_from_the_posted_one() -> None:
    done = replay(parse(traced(MIXED)), ZONES, RfcFixed)
    assert done.differences == [
        "walk 0 (node 2, 10.000004 s): batch 0 goes to node -1 in the kernel, to node 1 in the model"
    ]


PLANTED = [
    ("2 F 0 3 last", "2 F 1 3 last", "batch 1 goes to node 1 in the kernel, to node 0 in the model"),
    ("2 G 83 2\n2 G 84 0", "2 G 84 0\n2 G 83 2", ""),
    ("2 G 84 0\n2 G 90 0", "2 G 90 0\n2 G 84 0", "batch 1: page 0 is 0x84 in the kernel, 0x90 in the model"),
    ("2 G 84 0", "2 G 84 1", "page 0x84 is for node 1 in the kernel and for node 0 in the model"),
    ("2 G 84 0", "2 G 85 0", "page 0x85 is for node 0 in the kernel and without a mark in the model"),
    ("2 F -1 0", "2 F 1 0", "batch 0 goes to node 1 in the kernel, to node -1 in the model"),
    ("2 G 90 0", "2 G 90 0\n2 F 0 2", "batch 1: page 0 is 0x84 in the kernel, 0x90 in the model"),
    ("2 F 0 3 last", "2 F 0 3 last\n2 F 0 0 last", "3 batches in the kernel, 2 in the model"),
]


@pytest.mark.parametrize(("line", "instead", "why"), PLANTED)
def test_a_planted_wrong_batch_is_found(line: str, instead: str, why: str) -> None:
    events = MIXED.replace(line, instead, 1)
    if "2 F 0 2" in instead:
        events = events.replace("2 F 0 3 last", "2 F 0 1 last")
    again = "p A 91 0\n2 W 2\n2 G 91 0\n2 F -1 0\n2 F 0 1 last\n2 E 2\n"
    done = replayed(again + events + again)
    if not why:
        assert done.differences == [], "who is at home is in no batch, whenever it is asked"
        return
    (found,) = done.differences
    assert found.startswith("walk 1 (node 2, 10.00")
    assert found.endswith(why)


def many(n_first: int) -> str:
    """Return a walk over 600 marked pages whose first batch has so many."""
    marks = [f"p A {pfn:x} {pfn % 2}" for pfn in range(256, 856)]
    takes = [f"2 G {pfn:x} {pfn % 2}" for pfn in range(256, 856)]
    first = [*takes[1 : n_first + 1], f"2 F {(256 + n_first) % 2} {n_first}"]
    second = [*takes[n_first + 1 :], f"2 F 1 {600 - n_first} last"]
    return "\n".join([*marks, "2 W 2", takes[0], "2 F -1 0", *first, *second, "2 E 2"])


def test_a_batch_of_512_goes_with_the_page_that_is_not_in_it_and_one_of_511_is_found() -> None:
    assert replayed(many(512)).differences == []
    (found,) = replayed(many(511)).differences
    assert "batch 1 goes to node 1 in the kernel, to node 0 in the model" in found


def test_a_zone_ends_a_batch() -> None:
    done = replayed(
        "p A f 1\np A 11 2\n0 W 0\n0 G f 1\n0 F -1 0\n0 F 1 1 last\n0 G 11 2\n0 F -1 0\n0 F 2 1 last\n0 E 0"
    )
    assert (done.differences, done.n_batches) == ([], 2)


LATE = """
p A 90 0
p A 92 0
2 W 2
2 G 90 0
2 F -1 0
p A 85 0
p A 92 1
p A 99 1
2 G 92 1
2 G 99 1
p A 92 0
2 F 1 3 last
2 E 2
2 W 2
2 G 85 0
2 F -1 0
2 G 92 0
2 F 0 2 last
2 E 2
"""
"""Marks during a walk: behind the thread, of a page that is marked already, ahead of it, of a listed page."""


def test_marks_during_a_walk_are_met_by_it_or_wait_for_the_next() -> None:
    done = replayed(LATE)
    assert done.differences == []
    assert (done.n_met, done.n_off_lru) == (2, 0)


def test_a_mark_that_nobody_made_is_found() -> None:
    (found,) = replayed(LATE.replace("p A 85 0\n", "")).differences
    assert "page 0x85 is for node 0 in the kernel and without a mark" in found


def test_what_is_off_its_list_keeps_its_mark_for_a_later_walk() -> None:
    marks = "p A 90 0\np A 91 1\n"
    walks = "2 W 2\n2 G 90 0\n2 F -1 0\n2 F 0 1 last\n2 E 2\n2 W 2\n2 G 91 1\n2 F -1 0\n2 F 1 1 last\n2 E 2\n"
    done = replayed(marks + walks)
    assert done.differences == []
    assert done.n_off_lru == 1


def test_a_walk_that_began_before_the_trace_is_left_out() -> None:
    assert replayed("2 E 2\n" + MIXED).n_walks == 1
    with pytest.raises(TraceError, match="outside of a walk"):
        parse(traced(MIXED + "2 E 2"))
    with pytest.raises(TraceError, match="outside of a walk"):
        parse(traced("2 F 0 1 last\n2 E 2\n" + MIXED))
