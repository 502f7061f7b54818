"""A whole node goes offline and comes online while the service runs: ``python -m tests.vm --module``."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpuscan.engine.tick import TickReport
from gpuscan.live.stop import Stop
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import load_config
from gpuscan.service.session import ServiceSession
from guest import kernel
from guest.cgroups import cgroups
from guest.processes import Odd
from guest.shown import ENOUGH, note, on_node

PROMISED = os.environ.get("GPUSCAN_GUEST_MODULE")
"""The node that can go offline; None: the guest was booted without."""
MODULE, NEAR = int(PROMISED or 4), 0
NODES = Path("/sys/devices/system/node")
BLOCKS = [
    Path("/sys/devices/system/memory") / place.name
    for place in (NODES / f"node{MODULE}").glob("memory[0-9]*")
]

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(PROMISED is None, reason="the guest has no node that can go offline: --module"),
]

LOOKS = 3
CONFIG = f"""
[service]
monitor = "soft-dirty"
cpu = "100%"
batch = "1s"  # a call for one page may take longer than 20 ms here
tiers = ["{MODULE}=1"]
[[rule]]
name = "plugged"
cgroup = "plugged/*"
policy = "promote"
"""


def set_module(state: str) -> None:
    """Set all of the node's blocks offline, or online for pages that can be moved."""
    for block in BLOCKS:
        block.joinpath("state").write_text(state)
    has_it = str(MODULE) in (NODES / "has_memory").read_text().strip().split("-")
    assert has_it == (state != "offline")


def moved_by_others() -> dict[str, int]:
    """Return what others moved; that memory came online wakes who would compact it (online_pages())."""
    return {name: n for name, n in kernel.other_moves().items() if name != "compact_daemon_wake"}


def test_a_node_goes_offline_and_is_used_again_once_it_is_back(tmp_path: Path) -> None:
    assert BLOCKS, f"the guest was booted with node {MODULE}, and it has no memory that can go offline"
    configuration = tmp_path / "service.toml"
    configuration.write_text(CONFIG)
    at_look: list[int] = []
    by_kernel = 0
    skipped: list[int] = []
    programs: list[Odd] = []

    def started() -> Odd:
        name = f"odd-{len(programs)}"
        one = stack.enter_context(Odd(tmp_path, name, place / name, "plain", "--node", str(MODULE)))
        one.until_placed()
        programs.append(one)
        return one

    def knows_it() -> bool:
        return any(node["nid"] == MODULE for node in session.document(whole=False)["nodes"])

    def is_near(one: Odd) -> bool:
        return on_node(one, NEAR).hot >= ENOUGH

    def on_tick(_: TickReport) -> None:
        nonlocal by_kernel
        assert time.monotonic() < deadline, json.dumps(session.document(whole=True))
        looks = session.totals.n_ticks
        if len(at_look) == 0:  # its memory comes after the service has started
            assert not knows_it()
            set_module("online_movable")
            started()
        elif len(at_look) == 1 and is_near(programs[0]):
            assert knows_it()
            before = kernel.vmstat()["pgmigrate_success"]
            set_module("offline")
            by_kernel += kernel.vmstat()["pgmigrate_success"] - before
        elif len(at_look) == 2 and not knows_it() and looks >= at_look[-1] + LOOKS:
            assert is_near(programs[0])
            assert (programs[0].nodes() != MODULE).all()
            skipped.append(session.totals.skipped["not in a known zone"])
            set_module("online_movable")
            started()
        elif len(at_look) == 3 and is_near(programs[1]):
            signal.raise_signal(signal.SIGTERM)
        else:
            return
        at_look.append(looks)

    def open_inbox(stop: Stop) -> ControlSocket:
        return ControlSocket(tmp_path / "service.sock", None, stop)

    names = ["odd-0", "odd-1"]
    with cgroups("plugged", names) as place, ExitStack() as stack:
        set_module("offline")
        deadline = time.monotonic() + 800
        before, others = kernel.vmstat()["pgmigrate_success"], moved_by_others()
        config = load_config(configuration)
        # The node is not there at the start, and its tier is wanted for when it is.
        with ServiceSession(config, lambda: config, open_inbox) as session:
            session.run(lambda: None, on_tick)
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        moved = kernel.vmstat()["pgmigrate_success"] - before - by_kernel
        after = moved_by_others()
        for one in programs:
            one.end_checked()
    note(f"node {MODULE} online, offline and online: {moved:,} pages moved, {by_kernel:,} by the kernel")
    note(f"  {skipped} pages seen in no known zone meanwhile")
    assert len(at_look) == 4
    assert by_kernel > 0, "what was cold lay there, and the kernel moved it"
    assert after == others, "others moved pages as well"
    assert session.totals.moved_pages == moved
