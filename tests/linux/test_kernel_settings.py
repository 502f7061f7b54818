"""Settings of the kernel are put back whatever happened, and never what somebody else set since."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.linux.kernel_settings import (
    DEMOTION,
    NUMA_BALANCING,
    PROMOTION_RATE,
    STATE_FILE,
    KernelSettings,
    put_back_what_was_left,
)
from livesim.machine import Machine
from livesim.scenario import Event
from livesim.service import script
from livesim.system import Killed, SimulatedSystem

WANTED = {NUMA_BALANCING: "2", DEMOTION: "true"}
STEPS = st.one_of(
    st.dictionaries(st.sampled_from([NUMA_BALANCING, PROMOTION_RATE]), st.sampled_from(["1", "2", "3"])),
    st.just(PROMOTION_RATE),
)


def machine(*events):
    return Machine(replace(script(4)[0], events=events))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=6))
def test_what_others_set_stays_and_all_else_is_as_it_was(steps):
    """A dictionary is set by gpuscan; a name by somebody else, to what nobody had set it to."""
    there = machine()
    held = KernelSettings(SimulatedSystem(there))
    expected = dict(there.own.settings)  # what is there once gpuscan is gone
    for place, step in enumerate(steps):
        if isinstance(step, dict):
            held.set(step)
            assert all(there.own.settings[name] == value for name, value in step.items())
            assert all(there.own.settings[name] == expected[name] for name in expected.keys() - step.keys())
        else:
            there.own.settings[step] = expected[step] = str(100 + place)
    held.close()
    assert there.own.settings == expected
    assert not there.state_files[f"/{STATE_FILE}"]


@pytest.mark.parametrize("again", [WANTED, {NUMA_BALANCING: "3"}, {}])
def test_a_kill_at_any_call_leaves_nothing_that_the_next_one_does_not_put_back(again):
    step, is_over = 0, False
    while not is_over:
        step += 1
        there = machine(Event(step, "kill", 0))
        system = SimulatedSystem(there)
        try:
            held = KernelSettings(system)
            held.set(WANTED)
            held.set(again)
            held.close()
            is_over = True
        except Killed:
            was_left = there.own.settings != there.own.AT_BOOT
            left = put_back_what_was_left(SimulatedSystem(there))
            assert bool(left) >= was_left
        assert there.own.settings == there.own.AT_BOOT
        assert not any(there.state_files.values())
        assert not there.locks
    assert step > 20


def test_two_cannot_have_them_and_what_a_boot_made_stays():
    there = machine()
    held = KernelSettings(SimulatedSystem(there))
    held.set(WANTED)
    with pytest.raises(InputError, match="another gpuscan changes settings"):
        KernelSettings(SimulatedSystem(there))
    assert put_back_what_was_left(SimulatedSystem(there)) == ()
    assert there.own.settings[NUMA_BALANCING] == "2"
    there.locks.clear()
    state = there.state_files[f"/{STATE_FILE}"]
    state[:] = state.replace(b"simulated-boot", b"an-earlier-one")
    assert put_back_what_was_left(SimulatedSystem(there)) == ()
    assert there.own.settings[NUMA_BALANCING] == "2"
    assert not state


@pytest.mark.parametrize(
    "text", [b"{", b'{"boot_id": "simulated-boot", "settings": {"etc/passwd": {}}}', b"[]"]
)
def test_a_file_that_says_nothing_of_gpuscans_is_none(text):
    there = machine()
    there.state_files[f"/{STATE_FILE}"] = bytearray(text)
    assert put_back_what_was_left(SimulatedSystem(there)) == ()
    assert there.own.settings == there.own.AT_BOOT


def test_a_value_that_the_kernel_refuses_and_one_that_it_changes():
    there = machine()
    held = KernelSettings(SimulatedSystem(there))
    with pytest.raises(OSError, match="Invalid argument"):
        held.set({NUMA_BALANCING: "9"})
    write = there.own.write
    there.own.write = lambda name, value: write(name, "1")
    with pytest.raises(InputError, match="was set to 2, and is 1"):
        held.set({NUMA_BALANCING: "2"})
    there.own.write = write
    held.close()
    assert there.own.settings[NUMA_BALANCING] == "1"  # not what gpuscan wrote, so not its own to put back
