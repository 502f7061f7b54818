"""The guest machine: what its kernel makes of it, what a command may do in it, that nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vm import parts
from vm.guest import CHECKOUT, Guest, GuestError
from vm.host_clock import tsc_khz
from vm.machine import MODULE_VARIABLE, Machine

pytestmark = pytest.mark.slow
NODES = "/sys/devices/system/node"


@pytest.fixture(scope="module", autouse=True)
def _parts() -> None:
    reason = parts.missing()
    if reason is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"live migration must be tested in CI, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(out=tmp_path_factory.mktemp("guest")) as running:
        yield running


def said(guest: Guest, script: str) -> str:
    result = guest.run(["sh", "-c", script], limit_s=60)
    assert result.status == 0, result
    return result.stdout


def test_the_kernel_sees_four_nodes_in_two_tiers(guest: Guest) -> None:
    tiers = said(guest, "cat /sys/devices/virtual/memory_tiering/memory_tier*/nodelist").split()
    assert tiers == ["0-1", "2-3"], "DRAM above the expanders; without HMAT all nodes fall into one tier"
    assert said(guest, f"cat {NODES}/has_memory {NODES}/has_cpu").split() == ["0-3", "0-1"]
    distances = said(guest, f"cat {NODES}/node*/distance").split()
    assert distances[:4] == ["10", "20", "24", "34"]
    assert distances[12:] == ["34", "24", "40", "10"]
    log = guest.kernel_log()
    assert "Demotion targets for Node 0: preferred: 2" in log
    assert "Demotion targets for Node 1: preferred: 3" in log


def test_its_clock_runs_as_the_hosts_does(guest: Guest) -> None:
    """Left to measure it on a busy host, the kernel had it run six times too fast."""
    detected = re.search(r"tsc: Detected ([0-9.]+) MHz", guest.kernel_log())
    assert detected is not None
    assert float(detected[1]) == pytest.approx(tsc_khz() / 1e3, rel=1e-3)
    began_s, guest_began_s = time.monotonic(), float(said(guest, "cat /proc/uptime").split()[0])
    time.sleep(5)
    guest_s = float(said(guest, "cat /proc/uptime").split()[0]) - guest_began_s
    assert guest_s == pytest.approx(time.monotonic() - began_s, rel=0.5)


def test_systemd_can_be_its_first_process() -> None:
    with Guest(systemd=True) as guest:
        assert said(guest, "cat /proc/1/comm; systemctl is-system-running").split() == ["systemd", "running"]


SORTS = """
import numpy as np
numbers = np.random.default_rng(0).permutation(5000)
for of_size in (numbers.astype(np.int32), numbers, numbers.astype(np.float64)):
    assert (np.sort(of_size) == np.arange(5000)).all()
    assert (of_size[np.argsort(of_size)] == np.arange(5000)).all()
"""


def test_the_emulated_cpu_sorts(guest: Guest) -> None:
    """QEMU 7.2 does not with AVX2, and then nothing that a test in the guest says is to be believed."""
    said(guest, f"python -c '{SORTS}'")


def test_the_kernel_has_what_live_migration_uses(guest: Guest) -> None:
    assert said(guest, "uname -r").strip() == guest.parts.release
    assert said(guest, "cat /proc/sys/kernel/numa_balancing").strip() == "0"
    said(guest, "test -e /sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")
    said(guest, "test -w /sys/kernel/mm/numa/demotion_enabled")
    said(guest, "head -c 8 /proc/kpageflags > /dev/null")


def test_a_command_runs_in_this_checkout_with_this_python(guest: Guest) -> None:
    result = guest.run(
        [sys.executable, "-c", "import sys, gpuscan; print(gpuscan.__file__); sys.exit('to stderr')"],
        limit_s=60,
    )
    assert (result.status, result.stderr) == (1, "to stderr\n")
    assert result.stdout == f"{CHECKOUT}/gpuscan/__init__.py\n"


def test_modules_of_the_checkout_are_compiled_already(guest: Guest) -> None:
    code = "import gpuscan.live.session as it; print(it.__cached__)"
    cached = Path(guest.run([sys.executable, "-c", code], limit_s=120).stdout.strip())
    source = CHECKOUT / "gpuscan/live/session.py"
    # Bytes 8 to 12 of byte code are when its source was changed (PEP 552): it is used while that is so.
    assert int.from_bytes(cached.read_bytes()[8:12], "little") == int(source.stat().st_mtime)


def test_a_command_cannot_change_the_hosts_files(guest: Guest) -> None:
    result = guest.run(["touch", str(CHECKOUT / "README.md")], limit_s=60)
    assert result.status != 0
    assert "Read-only file system" in result.stderr


def test_what_a_command_leaves_comes_to_the_host_and_time_ends_it(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with Guest(out=tmp_path / "out") as guest:
        pid = qemu_of(os.getpid())[-1]
        said(guest, 'echo left > "$GUEST_OUT/file"')
        with pytest.raises(GuestError, match="time of 3 s is over"):
            guest.run(["sh", "-c", "echo begun; sleep 60"], limit_s=3, stdout=heard.append)
    assert b"".join(heard) == b"begun\n"
    assert (tmp_path / "out/file").read_text() == "left\n"
    assert not Path(f"/proc/{pid}").exists()


PANICS_AT_FIRST = """#!/bin/sh
for argument; do case $argument in file:*) console=${argument#file:};; esac; done
echo boot >>"$0.boots"
if [ "$(wc -l <"$0.boots")" -le %d ]; then echo "Kernel panic - not syncing" >"$console"; exit; fi
exec %s "$@"
"""


@pytest.mark.parametrize(("n_panics", "boots"), [(2, True), (3, False)])
def test_a_panic_at_boot_is_shown_and_the_guest_booted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n_panics: int, boots: bool
) -> None:
    guest = Guest()
    wrapper = tmp_path / "qemu"
    wrapper.write_text(PANICS_AT_FIRST % (n_panics, guest.parts.qemu))
    wrapper.chmod(0o755)
    guest.parts = replace(guest.parts, qemu=wrapper)
    if boots:
        with guest:
            assert said(guest, "echo here") == "here\n"
    else:
        with pytest.raises(GuestError, match="Kernel panic"):
            guest.__enter__()
    assert capsys.readouterr().err.count("once more") == 2
    assert len(Path(f"{wrapper}.boots").read_text().splitlines()) == 3


def test_a_command_is_told_which_node_is_a_module() -> None:
    """What needs one fails where it was promised and is not there, and is skipped elsewhere."""
    for machine, said_nid in ((Machine(), None), (Machine(module_mib=256), "4")):
        guest = Guest(machine)
        assert guest._environment().get(MODULE_VARIABLE) == said_nid
        guest.stop()


def test_no_guest_outlives_a_killed_harness() -> None:
    harness = subprocess.Popen(
        [sys.executable, "-m", "tests.vm", "sleep", "600"], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        (pid,) = eventually(lambda: qemu_of(harness.pid), "QEMU starts")
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    eventually(lambda: not is_running(pid), "QEMU ends")


def test_what_is_missing_is_said_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parts.FETCH in (parts.missing() or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert parts.INSTALL in (parts.missing() or "")


def test_a_folder_without_a_guests_kernel_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(parts.PartsError) as raised:
            parts.find(tmp_path)
        return str(raised.value)

    wanted = (
        "give one with one vmlinuz-RELEASE and netfs.ko, 9pnet.ko, 9p.ko, 9pnet_virtio.ko, not compressed"
    )
    is_none = f"{tmp_path} is not the folder of a guest's kernel, it has"
    assert refused() == f"{is_none} no files vmlinuz-*; {wanted}"
    (tmp_path / "vmlinuz-1").touch()
    for name in ("netfs.ko", "9pnet.ko", "9p.ko.xz"):
        (tmp_path / name).touch()
    assert refused() == f"{is_none} no 9p.ko; {wanted}"
    for name in ("9p.ko", "9pnet_virtio.ko"):
        (tmp_path / name).touch()
    found = parts.find(tmp_path)
    assert (found.release, found.modules[0]) == ("1", tmp_path / "netfs.ko")
    (tmp_path / "vmlinuz-2").touch()
    assert refused() == f"{is_none} 2 files vmlinuz-*; {wanted}"


def test_the_command_says_the_same_and_boots_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.vm", "--fetch", "--kernel", str(tmp_path), "true"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path} is not the folder of a guest's kernel, it has no files")
    assert len(done.stderr.splitlines()) == 1


def qemu_of(parent: int) -> list[int]:
    """Return the process ids of the guests that ``parent`` started, oldest first."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    guests = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("qemu")]
    return sorted(guests, key=started)  # not by number, which wraps around


def started(pid: int) -> int:
    """Return when a process began: ``starttime`` of proc_pid_stat(5), ticks since the boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie, which whoever adopted it may be slow to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(look: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    """Call ``look`` until it returns something true, and return that."""
    deadline = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {limit_s:g} s until {what}"
        time.sleep(0.05)
    return seen
