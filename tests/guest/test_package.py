"""The Debian package where systemd runs: what its scripts do, from the first installation to the purge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuscan.history.reading import read_notes
from guest import kernel, package
from guest.cgroups import cgroups
from guest.damon_scheme import n_kdamonds, n_working
from guest.processes import Odd, eventually
from guest.shown import ENOUGH, note, on_node
from guest.test_unit import NEAR_WITHIN_S, a_folder, assert_nothing_is_left, sum_of_moved
from guest.unit import CONFIG, HISTORY, NAME, Unit, systemctl

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.systemd,
    pytest.mark.timeout(0),
    pytest.mark.skipif(package.FILE is None, reason="the guest has no package: make test-package"),
]

RULES = """
[service]
monitor = "damon"
cpu = "100%"
batch = "1s"  # a call for one page may take longer than 20 ms here
[[rule]]
name = "fast"
cgroup = "packaged/fast"
policy = "promote"
"""
UNIT_FILE = Path("/usr/lib/systemd/system") / NAME
MASK = Path("/etc/systemd/system") / NAME


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Purge it, however the test ended."""
    yield
    if package.is_installed():
        package.dpkg("-P")


def state() -> str:
    return systemctl("show", "--value", "--property", "ActiveState", NAME)


def assert_is_the_package(unit: Unit) -> None:
    """Check that what runs is what was installed, as it is shipped: code, interpreter and sandbox."""
    command = Path(f"/proc/{unit.pid}/cmdline").read_text().split("\0")
    assert command[:-1] == ["/usr/bin/python3", "-I", "/usr/bin/gpuscan", "service", str(CONFIG)]
    lines = Path(f"/proc/{unit.pid}/maps").read_text().splitlines()
    mapped = {line.split()[5] for line in lines if "/" in line}
    assert any(name.startswith(f"{package.LIBRARY}/numpy/") for name in mapped)
    assert [name for name in mapped if "site-packages" in name] == []
    assert Path(unit.shown("FragmentPath")) == UNIT_FILE
    assert unit.shown("ProtectSystem") == "strict"
    assert unit.shown("ProtectKernelTunables") == "yes"
    status = Path(f"/proc/{unit.pid}/status").read_text()
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


def test_from_the_first_installation_to_the_purge(tmp_path: Path) -> None:
    assert not package.is_installed()
    assert not package.CACHE.exists()
    package.dpkg("-i")
    assert systemctl("is-enabled", NAME) == "enabled"
    assert state() == "inactive"
    systemctl("start", NAME)
    assert state() == "inactive"
    assert systemctl("show", "--value", "--property", "ConditionResult", NAME) == "no"
    with (
        cgroups("packaged", ["fast"]) as place,
        a_folder(RULES) as folder,
        Odd(tmp_path, "fast", place / "fast", "plain", "--node", "2") as fast,
    ):
        fast.until_placed()
        migrated = kernel.vmstat()["pgmigrate_success"]
        unit = Unit(folder, compiles=True)
        began_s = time.monotonic()
        package.dpkg("-i")  # with a configuration there: its script starts it, and waits
        first_s = time.monotonic() - began_s
        assert state() == "active", unit.complaints()
        assert_is_the_package(unit)
        assert len(list(package.CACHE.rglob("*.nbc"))) > 10, "compiled by the unit"
        eventually(lambda: on_node(fast, 0).hot >= ENOUGH, "the hot set is near", NEAR_WITHIN_S)
        before = unit.pid
        began_s = time.monotonic()
        package.dpkg("-i")  # an upgrade
        upgrade_s = time.monotonic() - began_s
        assert state() == "active", unit.complaints()
        assert unit.pid not in (0, before)
        assert [one["kind"] for one in read_notes(HISTORY, 0) if one["kind"] in ("start", "stop")] == [
            *("start", "stop"),
            "start",
        ]
        eventually(n_working, "it looks again", NEAR_WITHIN_S)
        package.dpkg("-r")
        eventually(lambda: n_kdamonds() == 0, "DAMON is given back", 60)
        assert_nothing_is_left()
        assert not running(), "no process of it is left"
        time.sleep(0.2)  # the kernel's counters are per CPU and are summed up when read, a moment apart
        assert sum_of_moved(0) == kernel.vmstat()["pgmigrate_success"] - migrated, "no record was lost"
        assert not package.is_installed()
        assert not UNIT_FILE.exists()
        assert MASK.readlink() == Path("/dev/null")
        assert CONFIG.read_text() == RULES
        package.dpkg("-i")  # and back again
        assert state() == "active", unit.complaints()
        package.dpkg("-P")
        left = [path for top in ("/etc", "/var") for path in Path(top).rglob("*gpuscan*")]
        assert left == []
        assert not running()
        fast.end_checked()
    note(f"the package: first start {first_s:.0f} s with all it compiles, upgrade {upgrade_s:.0f} s")


def running() -> list[int]:
    """Return the PIDs of the processes that run the package's program."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if str(package.PROGRAM) in words:
            found.append(int(place.name))
    return found
