"""DAMON's sysfs on a folder that behaves like it: taking it, reading it, giving it back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damon_kernel import FIRST_PID, DamonKernel, TraceKernel, aggregation, stat_line
from gpuscan.base.errors import RunFailedError
from gpuscan.linux import damon_state
from gpuscan.linux.damon import (
    NO_REGIONS,
    Damon,
    Intervals,
    Regions,
    Watched,
    in_pieces,
)
from gpuscan.linux.damon_taken import DamonUnavailableError
from gpuscan.linux.system import System
from gpuscan.monitors.catalogue import open_monitor
from gpuscan.monitors.contract import Circumstances
from gpuscan.monitors.damon_regions import (
    accesses_at,
    cold_regions,
    hot_frames,
    hot_pages,
    sure_inside,
    sure_regions,
)
from gpuscan.topology.sysfs import read_host

STATE = damon_state.STATE_FILE


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    # The watchdog has a process of its own, which the patched kernel does not reach: tested below.
    monkeypatch.setattr(Damon, "_start_watchdog", lambda self: None)
    return DamonKernel(tmp_path, monkeypatch)


def nr_kdamonds(kernel):
    return (kernel.admin / "nr_kdamonds").read_text().strip()


def started(kernel, *pids, system=None, **kwargs):
    damon = Damon("vaddr", system or System(kernel.root))
    damon.start([Watched(pid=pid) for pid in pids], Intervals(**kwargs), least_accesses=1)
    return damon


def test_a_kdamond_for_each_process_and_nothing_left_afterwards(kernel):
    damon = started(kernel, 77, 88)
    for number, pid in enumerate((77, 88)):
        context = kernel.admin / f"{number}/contexts/0"
        assert (kernel.admin / f"{number}/state").read_text() == "on\n"
        assert (context / "operations").read_text() == "vaddr\n"
        assert (context / "targets/0/pid_target").read_text() == f"{pid}\n"
        assert (context / "schemes/0/action").read_text() == "stat\n"
        assert (context / "schemes/0/access_pattern/nr_accesses/min").read_text() == "1\n"
        assert (context / "monitoring_attrs/intervals/aggr_us").read_text() == "60000\n"
    damon.close()
    assert nr_kdamonds(kernel) == "0"
    assert (kernel.root / STATE).read_text() == ""


def test_what_it_is_about_to_configure_is_noted_before_it_is_configured(kernel, monkeypatch):
    seen: list[Any] = []
    write = kernel.write

    def noting(system, path, value):
        text = (kernel.root / STATE).read_text()
        seen.append((path.name, str(value), json.loads(text) if text else None))
        write(system, path, value)

    damon = Damon("vaddr", System(kernel.root))
    monkeypatch.setattr(damon_state, "write", noting)
    damon.start([Watched(pid=77)], Intervals(), least_accesses=1)
    (made, configured) = (
        next(one for one in seen if one[0] == name) for name in ("nr_kdamonds", "pid_target")
    )
    assert (made[1], made[2]["n_kdamonds"], made[2]["boot_id"]) == ("1", 1, "this-boot")
    assert (configured[1], configured[2]["configured"]) == ("77", ["vaddr 77"])
    state = json.loads((kernel.root / STATE).read_text())
    assert state["kdamonds"] == [{"pid": FIRST_PID, "start_ticks": FIRST_PID * 10}]
    damon.close()


class Waiting(System):
    """Its time passes while it sleeps."""

    now_ns = 0

    def monotonic_ns(self):
        return self.now_ns

    def sleep(self, seconds):
        self.now_ns += int(seconds * 1e9)


def with_spare(kernel, *pids, n_kdamonds=4, system=None):
    damon = Damon("vaddr", system or System(kernel.root))
    damon.start([Watched(pid=pid) for pid in pids], Intervals(), least_accesses=1, n_kdamonds=n_kdamonds)
    kernel.written.clear()
    return damon


def states(kernel):
    """Return state, PID and target of each kdamond; a PID of None for one that is off."""
    found = []
    for number in range(int(nr_kdamonds(kernel))):
        kdamond = kernel.admin / str(number)
        pid = int((kdamond / "pid").read_text())
        target = kdamond / "contexts/0/targets/0/pid_target"
        found.append((pid if pid > 0 else None, int(target.read_text()) if target.exists() else None))
    return found


def test_a_newcomer_takes_a_spare_kdamond_and_the_others_go_on(kernel):
    damon = with_spare(kernel, 77, 88)
    assert damon.change([], [Watched(pid=99)]) == [2]
    assert states(kernel) == [(FIRST_PID, 77), (FIRST_PID + 1, 88), (FIRST_PID + 2, 99), (None, None)]
    assert {name.partition("/")[0] for name, _ in kernel.written} == {"2"}
    assert json.loads((kernel.root / STATE).read_text())["kdamonds"][2]["pid"] == FIRST_PID + 2
    damon.close()
    assert nr_kdamonds(kernel) == "0"


@pytest.mark.parametrize("has_ended", [False, True])
def test_who_goes_leaves_its_kdamond_to_a_newcomer(kernel, has_ended):
    damon = with_spare(kernel, 77, 88, n_kdamonds=2)
    if has_ended:
        kernel.kill_kdamond(0)
    assert damon.change([0], []) == []
    assert states(kernel) == [(None, None), (FIRST_PID + 1, 88)]
    assert damon.latest().keys() == {1}
    assert damon.change([], [Watched(pid=99)]) == [0]
    assert states(kernel) == [(FIRST_PID + 2, 99), (FIRST_PID + 1, 88)]
    assert "nr_kdamonds" not in dict(kernel.written)
    damon.close()
    assert nr_kdamonds(kernel) == "0"


def test_a_kdamond_that_does_not_stop_is_left_as_it_is(kernel):
    damon = Damon("vaddr", Waiting(kernel.root))
    damon.start([Watched(pid=77)], Intervals(), least_accesses=1)
    kernel.refuses["off"] = errno.EIO
    with pytest.raises(DamonUnavailableError, match="kdamond 0 does not stop"):
        damon.change([0], [Watched(pid=88)])
    assert states(kernel) == [(FIRST_PID, 77)]
    kernel.refuses.clear()
    damon.close()
    assert nr_kdamonds(kernel) == "0"


def test_nothing_is_asked_of_a_spare_kdamond(kernel):
    asked = []

    class Asking(System):
        def read_text(self, path):
            asked.append(path.relative_to(self.root).as_posix())
            return super().read_text(path)

    damon = Damon("vaddr", Asking(kernel.root))
    damon.start([Watched(pid=77)], Intervals(), least_accesses=1, n_kdamonds=64)
    damon.latest()
    damon.cpu_s()
    assert {name.split("/")[6] for name in asked if f"{damon_state.ADMIN}/" in name} == {"nr_kdamonds", "0"}
    assert not json.loads((kernel.root / STATE).read_text())["configured"][1:]
    damon.close()


def test_a_newcomer_that_takes_the_place_of_a_silent_one_is_asked_again(kernel):
    damon = with_spare(kernel, 77)
    damon.latest()  # it has nothing to say
    damon.change([0], [Watched(pid=88)])
    kernel.written.clear()
    damon.latest()
    assert len(kernel.written) > 1
    damon.close()


class Killed(BaseException):
    """SIGKILL."""


EVERY = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])


def at_each_step(root, monkeypatch, prepare, do, happens, every):
    """Do something on kernel after kernel; let something happen before its first step, its second and so on.

    Or before one of so ``every`` many. A step is a write to sysfs or to the state file. Yields kernel and
    DAMON after what happened raised, and after it did not.
    """
    monkeypatch.setattr(Damon, "_start_watchdog", lambda self: None)
    note = damon_state.StateFile.write
    for at_step in itertools.count(step=every):
        kernel = DamonKernel(root / str(at_step), monkeypatch)
        damon = prepare(kernel)
        steps = itertools.count()

        def step(write, *args, kernel=kernel, steps=steps, at_step=at_step):
            if next(steps) == at_step:
                happens(kernel)
            write(*args)

        with monkeypatch.context() as watched:
            watched.setattr(
                damon_state, "write", lambda *args, write=kernel.write, step=step: step(write, *args)
            )
            watched.setattr(damon_state.StateFile, "write", lambda *args, step=step: step(note, *args))
            with contextlib.suppress(Killed, KeyboardInterrupt):
                do(damon)
        yield kernel, damon
        shutil.rmtree(kernel.root)
        if next(steps) <= at_step:
            assert at_step > 30
            return


def two_of_three(kernel):
    return with_spare(kernel, 77, 88, n_kdamonds=3)


def one_goes_and_two_come(damon):
    damon.change([0], [Watched(pid=99), Watched(pid=111)])


def two_are_started(damon, n_kdamonds=8):
    damon.start([Watched(pid=77), Watched(pid=88)], Intervals(), least_accesses=1, n_kdamonds=n_kdamonds)


def two_are_started_anew(damon):
    two_are_started(damon, n_kdamonds=3)


def taken(kernel):
    return Damon("vaddr", System(kernel.root))


def ends_by_itself(number):
    def ends(kernel):
        if (kernel.admin / f"{number}/state").read_text() == "on\n":
            kernel.kill_kdamond(number)

    return ends


def is_killed(_):
    raise Killed


@pytest.mark.parametrize(
    ("prepare", "do"),
    [
        pytest.param(two_of_three, one_goes_and_two_come, id="change"),
        pytest.param(taken, two_are_started, id="start"),
        pytest.param(two_of_three, two_are_started_anew, id="start anew"),
    ],
)
@EVERY
def test_killed_at_any_step_it_is_given_back(tmp_path, monkeypatch, prepare, do, every):
    for kernel, damon in at_each_step(tmp_path, monkeypatch, prepare, do, is_killed, every):
        damon._state_file.close()
        taken(kernel).close()
        assert nr_kdamonds(kernel) == "0"


@pytest.mark.parametrize("number", [0, 1, 2])
@EVERY
def test_a_kdamond_ends_by_itself_at_any_step_of_a_change(tmp_path, monkeypatch, number, every):
    ends = ends_by_itself(number)
    for kernel, damon in at_each_step(
        tmp_path, monkeypatch, two_of_three, one_goes_and_two_come, ends, every
    ):
        targets = [target for _, target in states(kernel)]
        assert targets == [99, 88, 111]
        damon.close()
        assert nr_kdamonds(kernel) == "0"


@pytest.mark.parametrize("number", [0, 1])
@EVERY
def test_a_kdamond_ends_by_itself_and_then_it_is_killed(tmp_path, monkeypatch, number, every):
    def happens(kernel):
        ends_by_itself(number)(kernel)
        raise Killed

    for kernel, damon in at_each_step(
        tmp_path, monkeypatch, two_of_three, one_goes_and_two_come, happens, every
    ):
        damon._state_file.close()
        taken(kernel).close()
        assert nr_kdamonds(kernel) == "0"


@EVERY
def test_interrupted_at_any_step_of_a_change_it_closes(tmp_path, monkeypatch, every):
    def is_interrupted(_):
        raise KeyboardInterrupt

    for kernel, damon in at_each_step(
        tmp_path, monkeypatch, two_of_three, one_goes_and_two_come, is_interrupted, every
    ):
        damon.close()
        assert nr_kdamonds(kernel) == "0"
        assert (kernel.root / STATE).read_text() == ""


def test_regions_come_sorted_as_they_are(kernel):
    damon = started(kernel, 77)
    kernel.regions[0] = [(0x9000, 0xA000, 3, 1), (0x1000, 0x5000, 20, 7)]
    regions = damon.regions(0)
    assert regions.ranges.tolist() == [[0x1000, 0x5000], [0x9000, 0xA000]]
    assert regions.n_accesses.tolist() == [20, 3]
    assert regions.age.tolist() == [7, 1]
    damon.close()


def test_a_kdamond_that_lags_is_asked_again_and_a_silent_one_once(kernel, monkeypatch):
    damon = started(kernel, 77)
    asked: list[Any] = []

    def late(system, path, value):
        if value == "update_schemes_tried_regions":
            asked.append(len(asked))
            kernel.regions[0] = [(0x1000, 0x5000, 20, 7)] if len(asked) % 3 == 0 else []
        kernel.write(system, path, value)

    monkeypatch.setattr(damon_state, "write", late)
    assert len(damon.regions(0)) == 1
    assert len(asked) == 3
    monkeypatch.setattr(damon_state, "write", kernel.write)
    kernel.regions[0] = []
    kernel.written.clear()
    assert len(damon.regions(0)) == 0
    n_first = len(kernel.written)
    assert len(damon.regions(0)) == 0
    assert n_first > 1
    assert len(kernel.written) == n_first + 1
    damon.close()


def test_a_kdamond_that_ended_with_its_process_reports_nothing(kernel):
    damon = started(kernel, 77)
    kernel.kill_kdamond(0)
    assert len(damon.regions(0)) == 0
    damon.close()
    assert nr_kdamonds(kernel) == "0"


@pytest.mark.parametrize(("state", "is_refused"), [(None, False), ("Z", False), ("S", True)])
def test_a_process_that_ends_before_its_kdamond_is_on_has_nothing_to_report(kernel, state, is_refused):
    kernel.refuses["on"] = errno.EINVAL
    if state is not None:
        process = kernel.root / "proc/77"
        process.mkdir()
        (process / "stat").write_text(stat_line(77, "ended", state=state))
    if is_refused:
        with pytest.raises(DamonUnavailableError, match="does not take on"):
            started(kernel, 77)
        return
    damon = started(kernel, 77)
    assert len(damon.latest()[0]) == 0
    damon.close()
    assert nr_kdamonds(kernel) == "0"


def test_a_refused_report_of_a_running_kdamond_is_an_error(kernel):
    damon = started(kernel, 77, system=Waiting(kernel.root))
    kernel.refuses["update_schemes_tried_regions"] = errno.EBUSY
    with pytest.raises(RunFailedError, match="does not report regions"):
        damon.regions(0)
    damon.close()


def configure_foreign(kernel, *, on):
    kernel.write(System(kernel.root), kernel.admin / "nr_kdamonds", 1)
    take_place(kernel, 0, on=on)


def take_place(kernel, number, *, on):
    """Let somebody else have a place, whoever had it before."""
    kdamond = kernel.admin / str(number)
    if (kdamond / "state").read_text() == "on\n":
        kernel.write(System(kernel.root), kdamond / "state", "off")
    kernel.write(System(kernel.root), kdamond / "contexts/nr_contexts", 1)
    kernel.write(System(kernel.root), kdamond / "contexts/0/operations", "paddr")
    if on:
        kernel.write(System(kernel.root), kdamond / "state", "on")
    kernel.written.clear()


def has_place(kernel, number, *, on):
    """Whether somebody else has a place still."""
    kdamond = kernel.admin / str(number)
    operations = (kdamond / "contexts/0/operations").read_text()
    return (operations, (kdamond / "state").read_text() == "on\n") == ("paddr\n", on)


@pytest.mark.parametrize("on", [True, False])
def test_what_another_configured_is_not_touched(kernel, on):
    configure_foreign(kernel, on=on)
    with pytest.raises(DamonUnavailableError, match="DAMON is taken: 1 kdamond configured"):
        Damon("vaddr", System(kernel.root))
    assert kernel.written == []
    assert not (kernel.root / STATE).exists()


def killed(kernel, *pids):
    """Leave DAMON as a gpuscan that was killed leaves it."""
    damon = started(kernel, *pids)
    damon._state_file.close()
    kernel.written.clear()


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_killed_gpuscan_left_is_cleaned_up(kernel, ended):
    killed(kernel, 77)
    if ended:
        kernel.kill_kdamond(0)
    Damon("vaddr", System(kernel.root)).close()
    assert nr_kdamonds(kernel) == "0"


def test_killed_before_the_kdamond_was_noted(kernel):
    killed(kernel, 77)
    state = json.loads((kernel.root / STATE).read_text())
    del state["kdamonds"]
    (kernel.root / STATE).write_text(json.dumps(state))
    Damon("vaddr", System(kernel.root)).close()
    assert nr_kdamonds(kernel) == "0"


def another_boot(kernel):
    (kernel.root / "proc/sys/kernel/random/boot_id").write_text("another-boot\n")


def another_kdamond(kernel):
    (kernel.root / f"proc/{FIRST_PID}/stat").write_text(
        (kernel.root / f"proc/{FIRST_PID}/stat").read_text().replace(str(FIRST_PID * 10), "5")
    )


def another_target(kernel):
    kernel.kill_kdamond(0)
    (kernel.admin / "0/contexts/0/targets/0/pid_target").write_text("99\n")


def another_number(kernel):
    kernel.kill_kdamond(0)
    kernel.write(System(kernel.root), kernel.admin / "nr_kdamonds", 2)


def torn_state(kernel):
    (kernel.root / STATE).write_text('{"boot_id": "this-b')


@pytest.mark.parametrize(
    "change", [another_boot, another_kdamond, another_target, another_number, torn_state]
)
def test_a_state_file_that_does_not_fit_proves_nothing(kernel, change):
    killed(kernel, 77)
    change(kernel)
    kernel.written.clear()
    with pytest.raises(DamonUnavailableError, match="DAMON is taken"):
        Damon("vaddr", System(kernel.root))
    assert kernel.written == []


@pytest.mark.parametrize("on", [True, False])
def test_who_takes_it_over_meanwhile_keeps_it(kernel, on):
    damon = started(kernel, 77)
    kernel.write(System(kernel.root), kernel.admin / "0/state", "off")
    configure_foreign(kernel, on=on)
    damon.close()
    assert kernel.written == []
    assert (kernel.root / STATE).read_text() == ""


def test_who_takes_it_before_the_first_step_keeps_it(kernel):
    damon = Damon("vaddr", System(kernel.root))
    configure_foreign(kernel, on=True)
    with pytest.raises(DamonUnavailableError, match="DAMON is taken"):
        damon.start([Watched(pid=77)], Intervals(), least_accesses=1)
    damon.close()
    assert kernel.written == []


@pytest.mark.parametrize("on", [True, False])
def test_a_newcomer_does_not_touch_what_another_took_over_meanwhile(kernel, on):
    damon = with_spare(kernel, 77)
    kernel.write(System(kernel.root), kernel.admin / "0/state", "off")
    configure_foreign(kernel, on=on)
    with pytest.raises(DamonUnavailableError, match="DAMON is taken: 1 kdamond configured"):
        damon.change([0], [Watched(pid=88)])
    damon.close()
    assert kernel.written == []


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("place", "gone"),
    [
        pytest.param(0, [0], id="that goes"),
        pytest.param(2, [], id="that is the first free one"),
        pytest.param(1, [0], id="that stays"),
    ],
)
def test_no_newcomer_is_watched_once_a_stranger_has_a_place(kernel, place, gone, on):
    damon = with_spare(kernel, 77, 88)
    take_place(kernel, place, on=on)
    # Of those that are on ours are not named.
    who = f"process {FIRST_PID + 2}" if on else "switched off"
    with pytest.raises(
        DamonUnavailableError, match=rf"4 kdamonds configured \({who}\), and kdamond {place} "
    ):
        damon.change(gone, [Watched(pid=99)])
    assert kernel.written == []
    damon.close()
    assert has_place(kernel, place, on=on)
    assert sum(pid is not None for pid, _ in states(kernel)) == on


@pytest.mark.parametrize("on", [True, False])
def test_a_stranger_in_a_place_that_nobody_needs_is_let_be(kernel, on):
    damon = with_spare(kernel, 77, 88)
    take_place(kernel, 3, on=on)
    assert damon.change([0], [Watched(pid=99), Watched(pid=111)]) == [0, 2]
    assert {name.partition("/")[0] for name, _ in kernel.written} == {"0", "2"}
    damon.close()
    assert has_place(kernel, 3, on=on)
    assert states(kernel)[:3] == [(None, None)] * 3


def closes(damon):
    damon.close()


def is_killed_and_cleaned_up_after(damon):
    damon._state_file.close()
    assert damon_state._has_cleaned_up(damon._system)


def is_killed_before_the_next_start(damon):
    damon._state_file.close()
    with pytest.raises(DamonUnavailableError, match="DAMON is taken"):
        Damon("vaddr", damon._system)


ENDS = pytest.mark.parametrize(
    "ends", [closes, is_killed_and_cleaned_up_after, is_killed_before_the_next_start]
)


@ENDS
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("place", [0, 3])
def test_beside_a_stranger_ours_are_stopped_and_nothing_else_is_touched(kernel, ends, on, place):
    damon = with_spare(kernel, 77, 88)
    take_place(kernel, place, on=on)
    ends(damon)
    assert has_place(kernel, place, on=on)
    found = states(kernel)
    assert [found[number] for number in {0, 1, 2, 3} - {place}] == [(None, None)] * 3
    ours = {0, 1} - {place}
    files = ("state", "contexts/nr_contexts")
    assert {name for name, _ in kernel.written} == {f"{number}/{file}" for number in ours for file in files}
    assert (kernel.root / STATE).read_text() == ""


@ENDS
def test_beside_a_stranger_one_that_is_on_and_not_noted_yet_is_stopped(kernel, ends):
    damon = with_spare(kernel, 77, 88)
    damon._state_file.write({**damon._state_file.read(), "kdamonds": [damon_state.OFF] * 2})
    take_place(kernel, 3, on=True)
    ends(damon)
    assert states(kernel)[:3] == [(None, None)] * 3
    assert has_place(kernel, 3, on=True)


def test_the_note_stays_as_long_as_one_of_ours_does_not_stop_beside_a_stranger(kernel):
    system = Waiting(kernel.root)
    damon = with_spare(kernel, 77, 88, system=system)
    take_place(kernel, 3, on=True)
    kernel.refuses["off"] = errno.EIO
    noted = (kernel.root / STATE).read_text()
    damon.close()
    assert (kernel.root / STATE).read_text() == noted
    assert not damon_state._has_cleaned_up(system)
    assert states(kernel)[:2] == [(FIRST_PID, 77), (FIRST_PID + 1, 88)]
    kernel.refuses.clear()
    assert damon_state._has_cleaned_up(system)
    assert states(kernel)[:2] == [(None, None)] * 2
    assert (kernel.root / STATE).read_text() == ""


def test_a_close_that_fails_leaves_the_note_and_gives_up_the_lock(kernel, monkeypatch):
    damon = started(kernel, 77)

    def refusing(*_):
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as patched:
        patched.setattr(damon_state, "switch_off", refusing)
        with pytest.raises(OSError, match="busy"):
            damon.close()
    Damon("vaddr", System(kernel.root)).close()
    assert nr_kdamonds(kernel) == "0"


def test_what_is_busy_for_a_moment_is_asked_again_by_the_clock(tmp_path, monkeypatch):
    (tmp_path / damon_state.ADMIN / "0").mkdir(parents=True)
    (tmp_path / damon_state.ADMIN / "0/state").write_text("off\n")
    system, read_text = Waiting(tmp_path), Path.read_text
    busy_until_ns, refusal = 2_000_000_000, errno.EBUSY

    def busy(self, *args, **kwargs):
        if system.now_ns < busy_until_ns:
            raise OSError(refusal, "busy")
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", busy)
    assert damon_state.kdamond_pid(system, 0) == -1
    assert system.now_ns == busy_until_ns
    busy_until_ns = 20_000_000_000
    with pytest.raises(OSError, match="busy"):
        damon_state.kdamond_pid(system, 0)
    assert system.now_ns == 5_000_000_000
    refusal = errno.EINVAL
    with pytest.raises(OSError, match="busy"):
        damon_state.kdamond_pid(system, 0)
    assert system.now_ns == 5_000_000_000


def test_two_gpuscans_do_not_share_it(kernel):
    damon = started(kernel, 77)
    with pytest.raises(DamonUnavailableError, match="another gpuscan uses DAMON"):
        Damon("vaddr", System(kernel.root))
    damon.close()


def test_a_kernel_without_the_operations(kernel):
    kernel.operations = ("paddr",)
    with pytest.raises(DamonUnavailableError, match="CONFIG_DAMON_VADDR"):
        Damon("vaddr", System(kernel.root))
    assert nr_kdamonds(kernel) == "0"
    Damon("paddr", System(kernel.root)).close()


def without(kernel, name, *, directory=False):
    """Let contexts or schemes of the kernel lack a file or directory, as those of before it had one."""
    make = "_scheme" if directory else "_context"
    of_today = getattr(kernel, make)

    def of_then(place):
        of_today(place)
        shutil.rmtree(place / name) if directory else (place / name).unlink()

    setattr(kernel, make, of_then)


def test_a_kernel_that_does_not_say_its_operations_is_refused_at_the_start(kernel):
    """v5.18."""
    without(kernel, "avail_operations")
    with pytest.raises(DamonUnavailableError, match=r"no avail_operations.*take another --monitor"):
        Damon("vaddr", System(kernel.root))
    assert nr_kdamonds(kernel) == "0"


def test_a_kernel_without_tried_regions_is_refused_at_the_start_unless_it_can_be_traced(
    kernel, tmp_path, monkeypatch
):
    """v5.19 to v6.1."""
    without(kernel, "tried_regions", directory=True)
    kernel.refuses["update_schemes_tried_regions"] = errno.EINVAL
    with pytest.raises(DamonUnavailableError, match=r"no tried_regions.*its tracepoint cannot be used"):
        Damon("vaddr", System(kernel.root))
    assert nr_kdamonds(kernel) == "0"
    trace = TraceKernel(tmp_path, monkeypatch)
    damon = started(kernel, 77)
    trace.say(aggregation(FIRST_PID, (0x400000, 0x500000, 5, 1)))
    assert [regions.n_accesses.tolist() for regions in damon.latest().values()] == [[5]]
    damon.close()


@pytest.mark.parametrize(("name", "is_directory"), [("avail_operations", False), ("tried_regions", True)])
def test_auto_takes_the_next_monitor_of_a_kernel_whose_damon_says_too_little(kernel, name, is_directory):
    without(kernel, name, directory=is_directory)
    (kernel.root / "proc/kpageflags").write_bytes(b"")
    here = Circumstances(read_host().topology, 1, system=System(kernel.root))
    monitor, refused = open_monitor("auto", here)
    monitor.close()
    assert not monitor.name.startswith("damon")
    assert [text.partition(":")[0] for text in refused][:2] == ["damon", "damon-paddr"]
    assert all(f"no {name}" in text for text in refused[:2])


def test_a_kernel_without_damon(tmp_path):
    with pytest.raises(DamonUnavailableError, match="CONFIG_DAMON_SYSFS"):
        Damon("vaddr", System(tmp_path))


def test_physical_memory_takes_its_regions(kernel):
    damon = Damon("paddr", System(kernel.root))
    physical = ((0, 4096), (1 << 20, 3 << 20))
    damon.start([Watched(physical)], Intervals(min_regions=(4, 8)), least_accesses=0)
    target = kernel.admin / "0/contexts/0/targets/0"
    found = [
        tuple(int((target / f"regions/{number}/{end}").read_text()) >> 12 for end in ("start", "end"))
        for number in range(int((target / "regions/nr_regions").read_text()))
    ]
    # Of two nodes as two regions DAMON would say nothing but which of them is used.
    assert found == [(0, 1), (256, 384), (384, 512), (512, 640), (640, 768)]
    damon.close()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5_000)), min_size=1, max_size=8),
    n=st.integers(1, 400),
)
def test_pieces_cover_the_ranges_and_none_is_larger_than_its_share(lengths, n):
    ends = np.cumsum([gap + length for gap, length in lengths]).tolist()
    ranges = [((end - length) << 12, end << 12) for end, (_, length) in zip(ends, lengths, strict=True)]
    pieces = in_pieces(ranges, n)
    n_pages = sum(length for _, length in lengths)
    pages = [page for start, end in pieces for page in range(start >> 12, end >> 12)]
    assert pages == [page for start, end in ranges for page in range(start >> 12, end >> 12)]
    assert all(any(low <= start < end <= high for low, high in ranges) for start, end in pieces)
    assert max(end - start for start, end in pieces) >> 12 <= -(-n_pages // n)
    assert min(n, n_pages) <= len(pieces) < n + len(ranges)


def test_cpu_time_of_a_kdamond_that_ended_still_counts(kernel):
    damon = started(kernel, 77)
    before = damon.cpu_s()
    assert before == 200 / os.sysconf("SC_CLK_TCK")
    kernel.kill_kdamond(0)
    assert damon.cpu_s() == before
    damon.change([0], [Watched(pid=88)])
    assert damon.cpu_s() == 2 * before
    damon.close()
    assert damon.cpu_s() == 2 * before


@pytest.mark.parametrize(("says_goodbye", "left"), [(False, "0"), (True, "1\n")])
def test_the_watchdog_cleans_up_when_the_pipe_ends_and_nothing_was_said(tmp_path, says_goodbye, left):
    admin, watchdog = a_watchdog(tmp_path)
    watchdog.communicate(b"." if says_goodbye else b"", timeout=20)
    assert watchdog.returncode == 0
    assert (admin / "nr_kdamonds").read_text() == left


def test_the_watchdog_waits_for_a_lock_that_the_dying_process_still_holds(tmp_path):
    admin, watchdog = a_watchdog(tmp_path)
    held = damon_state.StateFile(System(tmp_path))
    watchdog.stdin.close()
    time.sleep(0.5)
    assert watchdog.poll() is None
    assert (admin / "nr_kdamonds").read_text() == "1\n"
    held.close()
    assert watchdog.wait(20) == 0
    assert (admin / "nr_kdamonds").read_text() == "0"


def a_watchdog(tmp_path):
    """Start a watchdog over a DAMON that a gpuscan has left; return the DAMON's folder and the process."""
    # Off already: the watchdog writes to the folder itself.
    admin = tmp_path / damon_state.ADMIN
    (admin / "0/contexts").mkdir(parents=True)
    (admin / "nr_kdamonds").write_text("1\n")
    (admin / "0/state").write_text("off\n")
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("this-boot\n")
    (tmp_path / STATE).parent.mkdir(parents=True)
    (tmp_path / STATE).write_text(
        json.dumps({"boot_id": "this-boot", "n_kdamonds": 1, "configured": ["vaddr 77"]})
    )
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", damon_state.__file__, str(tmp_path)], stdin=subprocess.PIPE
    )
    time.sleep(0.2)
    assert watchdog.poll() is None
    assert (admin / "nr_kdamonds").read_text() == "1\n"
    return admin, watchdog


def regions_of(*rows):
    """(pages, nr_accesses, age) one after the other."""
    ends = np.cumsum([pages for pages, _, _ in rows]) * 4096
    starts = np.concatenate(([0], ends[:-1]))
    return Regions(
        np.stack([starts, ends], axis=1),
        np.array([accesses for _, accesses, _ in rows]),
        np.array([age for _, _, age in rows]),
    )


def hot_of(*mappings):
    """Each mapping is a list of (pages, nr_accesses); return nr_accesses of the hot pages by mapping."""
    accesses = [np.repeat([count for _, count in rows], [n for n, _ in rows]) for rows in mappings]
    area = np.repeat(np.arange(len(mappings)), [len(part) for part in accesses])
    hot = hot_pages(np.concatenate(accesses), area)
    return [sorted(set(part[hot[area == i]].tolist())) for i, part in enumerate(accesses)]


def test_a_busy_stack_page_does_not_set_the_bar_for_a_slower_heap():
    assert hot_of([(8192, 4), (1, 20)]) == [[4, 20]]
    assert hot_of([(3000, 20)], [(2000, 4)]) == [[20], [4]]


def test_a_region_of_which_half_is_cold_waits_for_a_split():
    assert hot_of([(4000, 20), (256, 10)]) == [[20]]


def test_where_accesses_are_few_chance_is_allowed_for():
    assert hot_of([(3000, 3), (3000, 2), (3000, 1)]) == [[2, 3]]


def test_without_any_access_nothing_is_hot():
    assert hot_of([]) == [[]]


def test_one_aggregation_is_proof_where_nearly_every_look_found_an_access():
    regions = regions_of((10, 10, 0), (10, 9, 0), (10, 8, 9))
    assert sure_regions(regions, Intervals(5_000, 50_000)).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("counts", "sure"),
    [
        ([4, 4, 4], [False, True, False]),
        ([6, 5, 4, 6], [True, True, True, True]),
        ([0, 5, 6, 5, 1], [False, False, True, False, False]),  # over a border: a neighbour is cold
        ([6, 3, 6], [True, False, True]),
        ([3, 5, 6], [False, False, True]),
        ([6, 5, 3], [True, False, False]),
        ([5], [False]),
        ([5, 5], [False, False]),
        ([6], [True]),
    ],
)
def test_four_looks_of_six_are_proof_between_two_regions_that_have_as_many(counts, sure):
    assert sure_inside(regions_of(*((4, n, 0) for n in counts)), Intervals()).tolist() == sure


def test_no_region_is_sure_where_there_is_none():
    assert len(sure_inside(NO_REGIONS, Intervals())) == 0


def test_a_region_that_touches_no_hot_one_needs_all_looks():
    regions = regions_of(*((4, 5, 0) for _ in range(5)))
    for gap, sure in ((1, [False, False, True, True, False]), (3, [False, True, False, False, False])):
        ranges = regions.ranges.copy()
        ranges[gap:] += 4096  # what lies between was not accessed, or is not mapped
        moved = dataclasses.replace(regions, ranges=ranges)
        found = sure_inside(moved, Intervals())
        assert found[[gap - 1, gap]].tolist() == [False, False]
        assert found.tolist() == sure


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    gaps=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_what_is_sure_inside_is_sure_or_has_hot_memory_all_around(counts, gaps):
    regions = regions_of(*((4, n, 0) for n in counts))
    ranges = regions.ranges + 4096 * np.cumsum(gaps[: len(counts)], dtype=np.int64)[:, None]
    regions = dataclasses.replace(regions, ranges=ranges)

    def hot_at(number, touching):
        inside = 0 <= number < len(counts)
        return inside and counts[number] >= 4 and ranges[number, 0] <= touching <= ranges[number, 1]

    wanted = [
        n == 6 or (n >= 4 and hot_at(i - 1, ranges[i, 0]) and hot_at(i + 1, ranges[i, 1]))
        for i, n in enumerate(counts)
    ]
    assert sure_inside(regions, Intervals()).tolist() == wanted


def test_the_share_of_a_region_over_a_border_that_moves_wrongly():
    """What the comments on SURE_SHARE and INSIDE_SHARE say, by the rule itself on drawn looks."""
    rng = np.random.default_rng(1)
    n_drawn = 40_000
    hot = rng.random(n_drawn)
    counts = rng.binomial(6, hot)
    wrong = {}
    for name, beyond in (("border", 0), ("hole", 6)):
        # Between the drawn regions lie the hot stretch (6) and what is beyond it.
        around = np.tile([6, 0, beyond, 0], n_drawn)
        around[1::4] = counts
        regions = regions_of(*((1, n, 0) for n in around.tolist()))
        sure = sure_inside(regions, Intervals())[1::4]
        wrong[name] = float(((1 - hot) * sure).mean())
    assert wrong["border"] == pytest.approx(1 / 56, abs=0.002)
    assert wrong["hole"] == pytest.approx(6 / 56, abs=0.004)


def frames_of(*rows, area=None, most_accesses=6):
    """Each row is the counts of a page, the newest first; return which pages are hot, and which surely."""
    counts = np.array(rows).T
    area = np.zeros(len(rows), np.intp) if area is None else np.array(area)
    return tuple(np.flatnonzero(which).tolist() for which in hot_frames(counts, area, most_accesses))


def test_one_look_at_frames_is_not_enough():
    assert frames_of((6,), (6,), (1,)) == ([], [])
    assert frames_of((6, 6), (6, 6), (1, 1)) == ([0, 1], [0, 1])


def test_few_accesses_are_added_up_until_they_are_no_chance():
    # The process ran at one look of six: a region with a third of its pages hot is hit now and then, too.
    hot, mixed = (1, 1, 1, 1), (1, 0, 1, 0)
    for n_looks in (2, 3):
        assert frames_of(*[hot[:n_looks]] * 3, mixed[:n_looks]) == ([], [])
    assert frames_of(*[hot] * 3, mixed) == ([0, 1, 2], [])


def test_no_more_looks_are_added_up_than_it_takes():
    assert frames_of((6, 6, 0, 0), (6, 6, 0, 0), (1, 0, 6, 6)) == ([0, 1], [0, 1])


def test_a_frame_beside_hot_ones_by_chance_is_not_hot():
    assert frames_of((6, 6), (6, 6), (6, 5), (6, 4), (6, 2), (1, 6)) == ([0, 1, 2, 3], [0, 1, 2])


def test_hot_frames_were_accessed_now():
    assert frames_of((2, 2), (2, 2), (2, 2), (0, 3), (3, 0)) == ([0, 1, 2, 4], [])


def test_each_mapping_has_frames_with_a_bar_of_their_own():
    code, heap = (6, 6, 6), (2, 1, 1)
    assert frames_of(code, code, heap, heap, (1, 0, 0), area=[0, 0, 1, 1, 1]) == ([0, 1, 2, 3], [0, 1])


def test_frames_without_any_access_are_not_hot():
    assert frames_of((0, 0), (0, 0)) == ([], [])
    assert [which.tolist() for which in hot_frames(np.zeros((2, 0), np.int64), np.zeros(0, np.intp), 6)] == [
        [],
        [],
    ]


@given(
    looks=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(0, 6)), max_size=12), max_size=4
    ),
    pages=st.lists(st.integers(0, 300), max_size=60, unique=True),
)
def test_accesses_of_frames_are_those_of_their_regions(looks, pages):
    expected = np.zeros((len(looks), 1_000), np.int64)
    found = []
    for row, parts in zip(expected, looks, strict=True):
        end, ranges = 0, []
        for gap, length, count in parts:
            start, end = end + gap, end + gap + length
            ranges.append((start << 12, end << 12))
            row[start:end] = count
        counts = np.array([count for _, _, count in parts], np.int64)
        found.append(Regions(np.array(ranges, np.int64).reshape(-1, 2), counts, np.zeros_like(counts)))
    addresses = np.array(pages, np.int64)
    assert accesses_at(found, addresses << 12).tolist() == expected[:, addresses].tolist()


def test_cold_is_what_had_no_access_for_long():
    regions = regions_of((10, 0, 199), (10, 0, 200), (10, 1, 200))
    assert cold_regions(regions, Intervals(5_000, 50_000), 10_000_000_000).tolist() == [False, True, False]
