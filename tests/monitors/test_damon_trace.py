"""DAMON's tracepoint: whole aggregations out of a text, and the trace instance that is left by nobody."""

from __future__ import annotations

import errno
import json
import os

import pytest

from damon_kernel import FIRST_PID, DamonKernel, TraceKernel, aggregation
from gpuscan.linux import damon_state, damon_trace
from gpuscan.linux.damon import Damon, Intervals, Watched
from gpuscan.linux.damon_trace import AggregationTrace, last_aggregations
from gpuscan.linux.system import System

HOT, COLD, LATER = (4096, 8192, 6, 3), (8192, 20480, 0, 9), (4096, 20480, 5, 0)


def rows(text):
    return {pid: found.tolist() for pid, found in last_aggregations(text.encode()).items()}


def test_the_last_whole_aggregation_of_each_kdamond():
    text = aggregation(70, HOT, COLD) + aggregation(71, HOT) + aggregation(70, LATER)
    assert rows(text) == {70: [list(LATER)], 71: [list(HOT)]}
    # Two kdamonds at once, their lines by turns.
    one, two = aggregation(70, HOT, COLD).splitlines(True), aggregation(71, HOT, COLD).splitlines(True)
    mixed = one[0] + two[0] + one[1] + two[1]
    assert rows(mixed) == {70: [list(HOT), list(COLD)], 71: [list(HOT), list(COLD)]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (aggregation(70, HOT, says=2), {}),  # not ended yet
        (aggregation(70, COLD, says=2) + aggregation(70, HOT, COLD), {70: [list(HOT), list(COLD)]}),
        (aggregation(70, LATER) + aggregation(70, HOT, says=2), {70: [list(LATER)]}),
        ("CPU:1 [LOST 3 EVENTS]\n" + aggregation(70, HOT), {70: [list(HOT)]}),
        (aggregation(70, HOT, COLD)[:-1], {}),  # a line that is cut short may be a shorter number
        (aggregation(70, HOT).replace("damon_aggregated", "sched_switch"), {}),
    ],
)
def test_what_is_not_whole_does_not_count(text, found):
    assert rows(text) == found


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(Damon, "_start_watchdog", lambda self: None)
    return DamonKernel(tmp_path, monkeypatch)


@pytest.fixture
def trace(kernel, monkeypatch):
    return TraceKernel(kernel.root, monkeypatch)


def started(kernel, aggregation_us=60_000):
    damon = Damon("vaddr", System(kernel.root))
    damon.start([Watched(pid=77)], Intervals(aggregation_us=aggregation_us), least_accesses=1)
    return damon


def test_regions_by_the_trace(kernel, trace):
    damon = started(kernel)
    (instance,) = trace.instances.iterdir()
    assert (instance / "events/damon/damon_aggregated/enable").read_text() == "1"
    assert (instance / "tracing_on").read_text() == "1"
    trace.say(aggregation(FIRST_PID, HOT, COLD) + aggregation(FIRST_PID + 1, LATER))
    regions = damon.latest()[0]
    assert regions.ranges.tolist() == [[4096, 8192]]  # the other has fewer accesses than asked for
    assert (regions.n_accesses.tolist(), regions.age.tolist()) == ([6], [3])
    assert not [value for _, value in kernel.written if value.startswith("update")]
    assert (instance / "tracing_on").read_text() == "0"
    trace.say(aggregation(FIRST_PID, LATER))
    assert len(damon.latest()[0]) == 1
    damon.close()
    assert not list(trace.instances.iterdir())


def test_a_newcomer_is_told_from_who_was_there_before(kernel, trace):
    damon = Damon("vaddr", System(kernel.root))
    damon.start([Watched(pid=77)], Intervals(), least_accesses=1, n_kdamonds=2)
    trace.say(aggregation(FIRST_PID, HOT))
    assert damon.latest().keys() == {0}
    (number,) = damon.change([], [Watched(pid=88)])
    trace.say(aggregation(FIRST_PID, HOT, COLD) + aggregation(FIRST_PID + 1, LATER))
    found = damon.latest()
    assert [found[at].n_accesses.tolist() for at in (0, number)] == [[6], [5]]
    damon.close()


def test_what_is_traced_after_a_look_is_not_taken_for_the_next(kernel, trace, monkeypatch):
    damon = started(kernel, aggregation_us=100)
    write = AggregationTrace._write

    def late(self, name, value):
        if value == "0":
            trace.say(aggregation(FIRST_PID, LATER))
        write(self, name, value)

    monkeypatch.setattr(AggregationTrace, "_write", late)
    trace.say(aggregation(FIRST_PID, HOT))
    assert damon.latest()[0].n_accesses.tolist() == [6]
    assert len(damon.latest()[0]) == 0
    damon.close()


@pytest.mark.parametrize("pids", [[70], [70, 71], [71]])
def test_a_text_that_comes_by_and_by_is_parsed_when_it_may_be_whole(kernel, trace, monkeypatch, pids):
    damon = started(kernel)
    said = [aggregation(70, HOT, COLD), aggregation(71, HOT, COLD, (20480, 24576, 1, 1))]
    lines = "".join(said).splitlines(True)
    order = [0, 2, 1, 3, 4]  # by turns
    parts = [lines[number].encode() for number in order]
    parts[2:3] = [parts[2][:60], parts[2][60:]]
    monkeypatch.setattr(AggregationTrace, "_read", lambda self: parts.pop(0) if parts else b"")
    parsed = []

    def parse(text):
        parsed.append(text)
        return last_aggregations(text)

    monkeypatch.setattr(damon_trace, "last_aggregations", parse)
    found = damon._trace.aggregations(pids, 5.0)
    assert {pid: len(rows) for pid, rows in found.items()} == {pid: pid - 68 for pid in pids}
    assert len(parsed) <= 2
    damon.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("n_pids", [1, 2])
def test_a_look_ends_though_more_is_written_than_can_be_read(kernel, trace, monkeypatch, n_pids):
    damon = started(kernel)
    piece = aggregation(70, *[(n << 12, n + 1 << 12, 6, 3) for n in range(60)]).encode()

    class Writing(System):
        def read(self, fd, n_bytes):
            if (kernel.root / damon_state.TRACING / "instances" / name / "tracing_on").read_text() == "1":
                return piece
            raise BlockingIOError

    (name,) = [path.name for path in trace.instances.iterdir()]
    damon._trace._system = Writing(kernel.root)
    found = damon._trace.aggregations([70, 71][:n_pids], 0.5)
    assert {pid: len(rows) for pid, rows in found.items()} == {70: 60}
    damon._trace.end()
    damon.close()


def test_a_trace_that_says_nothing_is_left_for_sysfs(kernel, trace):
    damon = started(kernel, aggregation_us=100)
    kernel.regions[0] = [HOT]
    assert damon.latest()[0].n_accesses.tolist() == [6]
    assert not list(trace.instances.iterdir())
    damon.close()


def test_a_trace_that_has_worked_is_kept_while_a_kdamond_lags_and_after_it_ended(kernel, trace):
    damon = started(kernel, aggregation_us=100)
    trace.say(aggregation(FIRST_PID, HOT))
    assert len(damon.latest()[0]) == 1
    assert len(damon.latest()[0]) == 0
    assert list(trace.instances.iterdir())
    damon.close()
    damon = started(kernel, aggregation_us=100)
    kernel.kill_kdamond(0)
    assert len(damon.latest()[0]) == 0
    assert list(trace.instances.iterdir())
    damon.close()


def test_without_tracefs_sysfs_says_it(kernel):
    damon = started(kernel)
    kernel.regions[0] = [HOT]
    assert damon.latest()[0].n_accesses.tolist() == [6]
    damon.close()


@pytest.mark.parametrize(
    ("change", "is_left"),
    [
        ({}, False),
        ({"boot_id": "another"}, True),
        ({"trace_instances": ["../somebody"]}, True),
        ({"trace_instances": ["", 3, None]}, True),
        ({"trace_instances": {}}, True),
        ({"trace_instances": ["gpuscan-1", f"gpuscan-{os.getpid()}"]}, False),
        ({"trace_instances": None, "trace_instance": f"gpuscan-{os.getpid()}"}, True),
    ],
)
def test_a_killed_gpuscan_leaves_no_instance_and_only_its_own_is_removed(kernel, trace, change, is_left):
    damon = started(kernel)
    state = json.loads((kernel.root / damon_state.STATE_FILE).read_text())
    assert state["trace_instances"] == [f"gpuscan-{os.getpid()}"]
    somebody = trace.instances.parent / "somebody"
    somebody.mkdir()
    damon._state_file.write({**state, **change})
    assert damon_state.remove_traces(System(kernel.root), damon._state_file.read()) == []
    assert bool(list(trace.instances.iterdir())) == is_left
    assert somebody.exists()


def busy(self, path):
    raise OSError(errno.EBUSY, "Device or resource busy", str(path))


def test_the_one_instance_that_a_state_file_of_before_names_is_removed(kernel, trace):
    damon = started(kernel)
    state = damon._state_file.read()
    (name,) = state.pop("trace_instances")
    damon._state_file.write({**state, "trace_instance": name})
    assert damon_state.restore(System(kernel.root), damon._state_file) == ""
    assert not list(trace.instances.iterdir())


def test_an_instance_that_somebody_reads_stays_noted_until_it_can_be_removed(kernel, trace, monkeypatch):
    damon = started(kernel)
    (instance,) = trace.instances.iterdir()
    with monkeypatch.context() as reads:
        reads.setattr(System, "rmdir", busy)
        damon.close()
        noted = json.loads((kernel.root / damon_state.STATE_FILE).read_text())
        assert noted["trace_instances"] == [instance.name]
        started(kernel).close()
        assert json.loads((kernel.root / damon_state.STATE_FILE).read_text())["trace_instances"]
    started(kernel).close()
    assert not instance.exists()
    assert (kernel.root / damon_state.STATE_FILE).read_text() == ""


def test_what_cleans_up_after_a_kill_removes_the_instance(kernel, trace):
    damon = started(kernel)
    assert damon_state.restore(System(kernel.root), damon._state_file) == ""
    assert not list(trace.instances.iterdir())
