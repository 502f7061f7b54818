"""The service as it is installed: its orders, and half an hour in which it is reloaded and killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from gpuscan.base.units import PAGE_BYTES
from gpuscan.history.reading import read_notes
from guest import kernel
from guest.cgroups import cgroups
from guest.damon_scheme import n_kdamonds, n_working
from guest.leaks import strays
from guest.processes import HERE, Odd, Program, eventually
from guest.shown import ENOUGH, note, on_node
from guest.test_helping import settings
from guest.test_moves import UNACCOUNTED_PAGES
from guest.unit import DAMON_STATE, HISTORY, SOCKET, Unit

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.systemd, pytest.mark.timeout(0)]

SOAK_S = float(os.environ.get("GPUSCAN_SOAK_S", "1800"))
ROUND_S = 60.0
NEAR_WITHIN_S = 600.0
"""More than a busy host takes, by far: what is waited for is a state."""
CEILING = 0.8
"""Of a core, as it is emulated: some 20 times slower than the default of 2 % is meant for."""
RATE, SLOW_RATE = 512 << 10, 128 << 10
CONFIG = f"""
[service]
monitor = "soft-dirty"  # ten kdamonds take all of two emulated CPUs
cpu = "{CEILING:.0%}"
batch = "1s"  # a call for one page may take longer than 20 ms here
[budget]
rate = "{RATE}B/s"
[[rule]]
name = "fast"
cgroup = "soak/fast"
policy = "promote"
[[rule]]
name = "slow"
cgroup = "soak/slow"
policy = "promote"
rate = "{SLOW_RATE}B/s"
hot = {{hot}}
[[rule]]
name = "restless"
cgroup = "soak/restless"
policy = "both"
cold_after = "10s"
[[rule]]
name = "off"
cgroup = "soak/off"
policy = "off"
"""
NONSENSE = "[service]\nmoniter = 1\n"
FAR = {"fast": 2, "slow": 2, "restless": 3, "off": 3}
NEAR = {"fast": 0, "slow": 0}
MIB = {"fast": 32, "slow": 12, "off": 4}
AT_A_TIME = {"fast": 3, "slow": 3, "restless": 2, "off": 2}
"""Ten processes, by their rule."""


@dataclass
class Herd:
    """Processes that come and go, each in the cgroup of its rule."""

    folder: Path
    cgroup: Path
    members: dict[str, list[Odd | Restless]] = field(default_factory=lambda: {rule: [] for rule in AT_A_TIME})
    n_started: int = 0

    def start(self, rule: str) -> None:
        """Add a process under a rule, its memory in place."""
        self.n_started += 1
        name, place = f"{rule}-{self.n_started}", self.cgroup / rule
        member: Odd | Restless
        if rule == "restless":
            member = Restless(self.folder, name, self.n_started, place)
        else:
            options = ("--mib", str(MIB[rule]), "--node", str(FAR[rule]), "--pause-ms", "200")
            member = Odd(self.folder, name, place, "plain", *options)
        member.until_placed()
        self.members[rule].append(member)
        say(f"{name} has come")

    def replace_oldest(self, rule: str) -> None:
        """End the oldest process under a rule, which looks at its memory then, and start another."""
        self.members[rule].pop(0).end_checked()
        self.start(rule)

    def end(self) -> None:
        """End all of them."""
        for members in self.members.values():
            for member in members:
                member.end_checked()
            members.clear()

    def placed(self, rule: str) -> list[Odd]:
        """Return those under a rule whose memory stays where it was mapped."""
        return [one for one in self.members[rule] if isinstance(one, Odd)]

    def near(self, rule: str) -> float:
        """Return the share of the hot pages under a rule that are near, of the process where it is least."""
        return min(on_node(one, NEAR[rule]).hot for one in self.placed(rule))

    def are_near(self) -> bool:
        """Whether all hot sets are near."""
        return all(self.near(rule) >= ENOUGH for rule in NEAR)

    def stayed(self) -> bool:
        """Whether no page under the rule that leaves alone was moved."""
        return all(bool((one.nodes() == FAR["off"]).all()) for one in self.placed("off"))


class Restless(Program):
    """``unsettled.py``, running in a cgroup."""

    def __init__(self, folder: Path, name: str, seed: int, cgroup: Path) -> None:
        options = ("--seed", str(seed), "--node", str(FAR["restless"]), "--mib", "2", "--pause-ms", "50")
        super().__init__([sys.executable, str(HERE / "unsettled.py"), *options], folder, name)
        (cgroup / "cgroup.procs").write_text(str(self.pid))

    def until_placed(self) -> None:
        """Wait for nothing: it places memory all the time."""

    def end_checked(self) -> None:
        """Have it end, and check that its memory held what it wrote."""
        assert self.process.poll() is None, f"its memory has changed: {self.process.returncode}"
        self.process.send_signal(signal.SIGTERM)
        assert self.end(120) == 0, f"its memory has changed: {self.process.returncode}"


@contextmanager
def a_herd(folder: Path) -> Iterator[Herd]:
    """Ten processes in cgroups, until the block ends."""
    with cgroups("soak", AT_A_TIME) as place:
        herd = Herd(folder, place)
        for rule, n in AT_A_TIME.items():
            for _ in range(n):
                herd.start(rule)
        yield herd


@dataclass
class Series:
    """What was moved by when, in base pages: of all, and under one rule."""

    t_s: list[float] = field(default_factory=list)
    all_pages: list[int] = field(default_factory=list)
    slow_pages: list[int] = field(default_factory=list)

    def look(self, unit: Unit) -> None:
        """Add how it stands now."""
        policies = unit.policies()
        moved = {name: sum(one["moved_pages_to"].values()) for name, one in policies.items()}
        self.t_s.append(time.monotonic())
        self.all_pages.append(sum(moved.values()))
        self.slow_pages.append(moved["slow"])

    def rate(self, pages: list[int]) -> float | None:
        """Return the slope in bytes per second while something waited; None where it was too short."""
        t_s, moved = np.array(self.t_s), np.array(pages)
        grows = np.flatnonzero(np.diff(moved) > 0)
        if len(grows) < 4:
            return None
        # Both ends stand on a look that moved: what was saved before the first of them is not in it.
        first, last = int(grows[0]) + 1, int(grows[-1])
        if t_s[last] - t_s[first] < 8:
            return None
        return float(np.polyfit(t_s[first : last + 1], moved[first : last + 1] * PAGE_BYTES, 1)[0])


@dataclass
class Seen:
    """What the rounds have shown."""

    near_s: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    lived_s: list[float] = field(default_factory=list)
    """Of each life of the service, from when it ran to its end."""
    all_rates: list[float] = field(default_factory=list)
    slow_rates: list[float] = field(default_factory=list)
    resident_kib: list[int] = field(default_factory=list)
    n_kills: int = 0
    n_reloads: int = 0


def say(what: str) -> None:
    """Say how far it has come: it takes long."""
    sys.stderr.write(f"{time.monotonic():.0f} s: {what}\n")


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


class Life:
    """The service from when it runs to its end: what it took of a core."""

    def __init__(self, unit: Unit) -> None:
        self._pid = unit.pid
        self._began_s, self._cpu_s = time.monotonic(), sum(kernel.cpu_s(self._pid))

    def note(self, seen: Seen) -> None:
        """Note it, at its end."""
        seen.lived_s.append(time.monotonic() - self._began_s)
        seen.cpu_s.append(sum(kernel.cpu_s(self._pid)) - self._cpu_s)
        seen.resident_kib.append(resident_kib(self._pid))


def reload_twice(unit: Unit, configuration: str) -> None:
    """Have it read nonsense, which it refuses, and then another configuration."""
    unit.configuration.write_text(NONSENSE)
    unit.hang_up()
    eventually(lambda: "moniter" in unit.ctl("status")["problem"], "it refuses nonsense", 120)
    unit.configuration.write_text(configuration)
    unit.hang_up()
    eventually(lambda: unit.ctl("status")["problem"] == "", "it goes by what makes sense", 120)


def kill_and_start(unit: Unit, life: Life, seen: Seen) -> Life:
    """Kill it and wait until it runs again."""
    life.note(seen)
    began_s = time.monotonic()
    unit.kill()
    unit.until_ready()
    seen.start_s.append(time.monotonic() - began_s)
    seen.n_kills += 1
    say(f"runs {seen.start_s[-1]:.0f} s after a kill")
    return Life(unit)


ORDERS = """
[service]
monitor = "damon"
cpu = "100%"
batch = "1s"  # as below
[[rule]]
name = "fast"
cgroup = "orders/fast"
policy = "promote"
[[rule]]
name = "slow"
cgroup = "orders/slow"
policy = "{slow}"
"""


def test_orders_a_reload_and_a_kill(tmp_path: Path) -> None:
    with (
        cgroups("orders", ["fast", "slow"]) as place,
        a_folder(ORDERS.format(slow="off")) as folder,
        Odd(tmp_path, "fast", place / "fast", "plain", "--node", "2") as fast,
        Odd(tmp_path, "slow", place / "slow", "plain", "--node", "2") as slow,
    ):
        for one in (fast, slow):
            one.until_placed()
        with Unit(folder) as unit:
            unit.until_ready()
            eventually(lambda: on_node(fast, 0).hot >= ENOUGH, "the hot set is near", NEAR_WITHIN_S)
            assert [one["n_processes"] for one in unit.policies().values()] == [1, 0]
            assert (slow.nodes() == 2).all()
            reload_twice(unit, ORDERS.format(slow="promote"))
            eventually(lambda: on_node(slow, 0).hot >= ENOUGH, "the others are near", NEAR_WITHIN_S)
            n_hot = (fast.hot()[1] - fast.hot()[0]) // PAGE_BYTES
            assert unit.policies()["fast"]["promoted_pages"] >= ENOUGH * n_hot, (
                "counted on through the reload"
            )
            unit.ctl("pause")
            eventually(lambda: unit.ctl("status")["n_processes"] == 0, "it rests", 60)
            eventually(lambda: n_working() == 0, "no kdamond works", 60)
            unit.ctl("resume")
            eventually(n_working, "it goes on", 60)
            unit.kill()
            eventually(lambda: n_kdamonds() == 0, "the watchdog has cleaned up", 60)
            unit.until_ready()
            assert unit.ctl("drain", 0)["nodes"][0]["draining"]
            eventually(
                lambda: all((one.nodes() != 0).all() for one in (fast, slow)),
                "node 0 is empty",
                NEAR_WITHIN_S,
            )
            unit.stop()
        kinds = [one["kind"] for one in read_notes(HISTORY, 0)]
        assert kinds.count("start") == 2
        assert {"config", "control", "moved", "process", "rest", "stop"} <= set(kinds)
        assert_nothing_is_left()
        for one in (fast, slow):
            one.end_checked()


@contextmanager
def a_folder(configuration: str) -> Iterator[Path]:
    """Yield a folder with a configuration, which the unit can see; at the end it is gone, and the history."""
    folder = Path("/run/soak")
    folder.mkdir()
    (folder / "service.toml").write_text(configuration)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(HISTORY.parent, ignore_errors=True)


def assert_nothing_is_left() -> None:
    """Check that a service that has ended has given everything back."""
    assert n_kdamonds() == 0
    assert not SOCKET.exists()
    assert not DAMON_STATE.exists() or DAMON_STATE.stat().st_size == 0
    assert not list(Path("/sys/kernel/tracing/instances").iterdir())


def test_it_keeps_ten_processes_in_order_through_reloads_and_kills(tmp_path: Path) -> None:
    rng = random.Random(1)
    before, others = strays(), kernel.other_moves()
    seen = Seen()
    with a_herd(tmp_path) as herd, a_folder(CONFIG.format(hot=2)) as folder:
        migrated = kernel.vmstat()["pgmigrate_success"]
        began_s = time.monotonic()
        with Unit(folder) as unit:
            unit.until_ready()
            seen.start_s.append(time.monotonic() - began_s)
            say(f"runs after {seen.start_s[0]:.0f} s")
            life = Life(unit)
            began_s = round_s = time.monotonic()
            n_rounds = 0
            while round_s - began_s < SOAK_S:
                for rule in ("fast", "slow", ("restless", "off")[n_rounds % 2]):
                    herd.replace_oldest(rule)
                say("three have come and gone")
                # Each second time in the middle of what there is to do.
                is_early = n_rounds % 2 == 1
                if is_early:
                    time.sleep(rng.uniform(0, 10))
                    life = kill_and_start(unit, life, seen)
                series, from_s = Series(), time.monotonic()
                while not herd.are_near():
                    assert time.monotonic() - from_s < NEAR_WITHIN_S, unit.ctl("dump")
                    series.look(unit)
                    time.sleep(0.5)
                    if len(series.t_s) % 20 == 0:
                        cost = unit.ctl("status")["cost"]
                        say(
                            f"near {[herd.near(rule) for rule in NEAR]}, {series.all_pages[-1]} moved, {cost}"
                        )
                seen.near_s.append(time.monotonic() - from_s)
                seen.all_rates += [r for r in [series.rate(series.all_pages)] if r is not None]
                seen.slow_rates += [r for r in [series.rate(series.slow_pages)] if r is not None]
                reload_twice(unit, CONFIG.format(hot=2 + n_rounds % 2))
                seen.n_reloads += 2
                assert herd.stayed()
                time.sleep(max(0.0, round_s + ROUND_S - time.monotonic()))
                if not is_early:
                    life = kill_and_start(unit, life, seen)
                n_rounds += 1
                round_s = time.monotonic()
                say(f"round {n_rounds} is over after {round_s - began_s:.0f} s in all")
            # Of its last life nothing is unknown: what the kernel moved is what was noted.
            life.note(seen)
            unit.kill()
            last, last_ns = kernel.vmstat()["pgmigrate_success"], time.time_ns()
            unit.until_ready()
            status = unit.ctl("status")
            time.sleep(20)
            unit.stop()
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        now = kernel.vmstat()["pgmigrate_success"]
        assert herd.are_near()
        herd.end()
        noted, noted_last = sum_of_moved(0), sum_of_moved(last_ns)
    after = strays()
    n_s, share = round_s - began_s, sum(seen.cpu_s) / sum(seen.lived_s)
    came = f"{herd.n_started} processes, {seen.n_reloads} reloads, {seen.n_kills + 1} kills"
    of_all, of_one = (spread(rates, 1 << 10) for rates in (seen.all_rates, seen.slow_rates))
    in_all, last_life = (now - migrated, noted), (now - last, noted_last)
    note(f"the service for {n_s:.0f} s: {came}")
    note(f"  ready {spread(seen.start_s)} s after a start, all near {spread(seen.near_s)} s after that")
    note(f"  {of_all} KiB/s of {RATE >> 10} moved, {of_one} of {SLOW_RATE >> 10} under one rule")
    note(f"  {share:.1%} of a core of {CEILING:.0%}, {spread(seen.resident_kib, 1 << 10)} MiB resident")
    note(f"  pages moved as the kernel and the history have it: {in_all}, in its last life {last_life}")
    note(f"  pages that are nobody's: {before}, {after}")
    assert kernel.other_moves() == others, "others moved pages as well"
    assert last_life[0] == last_life[1]
    # What it did in the ten seconds before a kill is not noted, and no more than the budget lets it.
    assert 0 <= now - migrated - noted <= (seen.n_kills + 1) * 15 * RATE // PAGE_BYTES
    assert status["cost"]["ceiling_exceeded"] == 0
    assert share <= CEILING
    assert median(seen.all_rates) == pytest.approx(RATE, rel=0.1)
    assert median(seen.slow_rates) == pytest.approx(SLOW_RATE, rel=0.1)
    assert max(seen.resident_kib) < 1.1 * seen.resident_kib[0] + 4096
    assert after.orphans <= before.orphans
    assert after.unaccounted <= before.unaccounted + UNACCOUNTED_PAGES
    assert_nothing_is_left()


def sum_of_moved(since_ns: int) -> int:
    """Return the base pages that the history says were moved since a time."""
    notes = read_notes(HISTORY, since_ns)
    return sum(sum(one["moved_pages_to"].values()) for one in notes if one["kind"] == "moved")


def spread(values: list[float] | list[int], unit: float = 1) -> str:
    """Return the least, the median and the most of values."""
    least, middle, most = (each / unit for each in (min(values), median(values), max(values)))
    return f"{middle:.1f} ({least:.1f} to {most:.1f})"


HELPED = {
    "numa-balancing": """
[[rule]]
name = "helped"
backend = "kernel"
""",
    "damon-schemes": """
[[rule]]
name = "helped"
cgroup = "helped/fast"
backend = "kernel"
policy = "promote"
""",
}


@pytest.mark.parametrize("helper", HELPED)
def test_the_kernel_carries_out_a_rule_from_within_the_sandbox(tmp_path: Path, helper: str) -> None:
    """The unit makes the kernel's settings read-only but for those that helpers need."""
    found = settings()
    with (
        cgroups("helped", ["fast"], "+memory") as place,
        a_folder('[service]\nmonitor = "soft-dirty"\ncpu = "100%"\n' + HELPED[helper]) as folder,
        Odd(tmp_path, "fast", place / "fast", "plain", "--node", "2", "--mib", "32") as fast,
    ):
        fast.until_placed()
        with Unit(folder) as unit:
            unit.until_ready()
            assert unit.shown("ProtectKernelTunables") == "yes"
            assert unit.policies()["helped"]["helper"] == helper
            if helper == "numa-balancing":
                assert settings() == ("2", "true")
            eventually(lambda: on_node(fast, 0).hot >= ENOUGH / 2, "the kernel has moved it", NEAR_WITHIN_S)
            eventually(lambda: unit.policies()["helped"]["moved_by_kernel_pages"] > 0, "it is counted", 60)
            assert [one["trouble"] for one in unit.ctl("status")["helpers"]] == [""]
            unit.stop()
        assert_nothing_is_left()
        assert settings() == found
        fast.end_checked()
