"""What a live run gives up, what it keeps, and that its command keeps all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.linux import capabilities, privileges
from gpuscan.linux.capabilities import BITS, FLAGS, FRAMES, KEPT, OTHERS, Right
from gpuscan.linux.damon_taken import SYSFS
from gpuscan.linux.sharing import ALL
from gpuscan.linux.syscalls import CapabilitySets, capget
from gpuscan.linux.system import System
from gpuscan.linux.write_tracking import check_write_tracking
from gpuscan.monitors.catalogue import MONITORS, rights_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has nothing to give up")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
NOBODY = 65534
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def mask(*rights: Right) -> int:
    return sum(1 << bit for bit in {BITS[right.name] for right in rights})


def parsed(status: str) -> dict[str, int]:
    fields = (line.split() for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs")))
    return {name.rstrip(":"): int(value, 16) for name, value in fields}


def in_python(code: str, *before: str) -> list[dict[str, int]]:
    """Run code in a Python of its own; each blank line of its output ends the text of a status file."""
    command = [*before, sys.executable, "-c", f"from gpuscan.linux import privileges as p\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [parsed(part) for part in done.stdout.split("\n\n") if part.strip()]


def as_nobody(*names: str) -> list[str]:
    given = ",".join("+" + name.removeprefix("CAP_").lower() for name in names)
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", *who, "--inh-caps", given, "--ambient-caps", given]


SHOW = "print(open('/proc/thread-self/status').read(), flush=True); print(flush=True)\n"
SHOW_EXEC = "import subprocess; subprocess.run(['cat', '/proc/self/status'])\n"


@needs_root
def test_what_is_not_kept_is_gone_from_all_sets_and_does_not_come_back():
    kept = mask(FRAMES, OTHERS)
    code = f"from gpuscan.linux.capabilities import *\np.give_up([FRAMES, OTHERS])\n{SHOW}{SHOW_EXEC}"
    own, child = in_python(code)
    assert own == {
        **dict.fromkeys(SETS, kept),
        "CapInh": 0,
        "CapAmb": 0,
        "NoNewPrivs": 1,
    }
    assert child["CapPrm"] & ~kept == 0  # root has by execve what its bounding set and no_new_privs leave it
    assert child["NoNewPrivs"] == 1
    back = "from gpuscan.linux.syscalls import *\np.give_up([])\ncapset(CapabilitySets(1 << 21, 1 << 21, 0))"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        in_python(back)
    assert "PermissionError" in refused.value.stderr


@needs_root
def test_a_right_of_the_owner_is_not_kept_by_root():
    code = "from gpuscan.linux.damon_taken import SYSFS\np.give_up([SYSFS])\n" + SHOW
    (own,) = in_python(code)
    assert own["CapPrm"] == own["CapBnd"] == 0


@needs_root
@needs_setpriv
def test_who_is_not_root_keeps_it_and_may_not_touch_the_bounding_set():
    code = "from gpuscan.linux.damon_taken import SYSFS\np.give_up([SYSFS])\n" + SHOW + SHOW_EXEC
    own, child = in_python(code, *as_nobody("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"))
    assert own["CapPrm"] == own["CapEff"] == mask(SYSFS)
    assert (own["CapAmb"], own["NoNewPrivs"]) == (0, 1)
    assert own["CapBnd"] != 0
    assert child["CapPrm"] == 0


@needs_root
@needs_setpriv
def test_who_may_write_everything_may_read_everything():
    code = "from gpuscan.linux.capabilities import *\np.give_up([OTHERS_FILES])\n" + SHOW
    (own,) = in_python(code, *as_nobody("CAP_DAC_OVERRIDE"))
    assert own["CapPrm"] == mask(SYSFS)


@needs_root
@needs_setpriv
@pytest.mark.parametrize("before", [(), as_nobody("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN")])
def test_the_watchdog_has_what_cleaning_up_takes_and_no_more(before):
    code = "import subprocess; from gpuscan.linux.damon_taken import _with_rights_to_clean_up as rights\n"
    code += "subprocess.run(['cat', '/proc/self/status'], preexec_fn=rights)\n"
    (watchdog,) = in_python(code, *before)
    assert watchdog["CapPrm"] == watchdog["CapEff"] == (mask(SYSFS) if before else 0)
    assert watchdog["NoNewPrivs"] == 1


@needs_root
def test_damon_is_put_back_after_rights_were_given_up(tmp_path):
    """With a folder for DAMON's sysfs; that the kernel asks no more than this is tested in the guest."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import pytest, os
from pathlib import Path
from damon_kernel import DamonKernel
from gpuscan.linux.capabilities import KEPT
from gpuscan.linux.damon import Damon, Intervals, Watched
from gpuscan.linux.damon_taken import SYSFS
from gpuscan.linux.system import System
root = Path({str(tmp_path)!r})
with pytest.MonkeyPatch.context() as patch:
    kernel = DamonKernel(root, patch)
    for path in root.rglob('*'):
        path.chmod(0o700 if path.is_dir() else 0o600)
    damon = Damon('vaddr', System(root))
    p.give_up([*KEPT, SYSFS])
    damon.start([Watched(pid=1)], Intervals(), least_accesses=1)
    assert (kernel.admin / 'nr_kdamonds').read_text() == '1\\n'
    damon.close()
    assert (kernel.admin / 'nr_kdamonds').read_text() == '0\\n'
    assert (root / 'run/gpuscan/damon.json').read_text() == ''
"""
    in_python(code)


def live(*arguments: str, before: list[str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpuscan", "live", "--device", "cpu", "--dry-run", "--json", *arguments]
    return subprocess.Popen(
        [*(before or []), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def statuses(pid: int) -> list[dict[str, int]]:
    return [parsed((task / "status").read_text()) for task in Path(f"/proc/{pid}/task").iterdir()]


TELLS = "cat /proc/self/status >&2; env >&2; echo that is all >&2; exec sleep 60"


@needs_root
@pytest.mark.parametrize("source", ["kpageflags", "written"])
def test_a_live_run_has_what_it_needs_and_its_command_what_the_caller_has(source):
    if source == "written":
        try:
            check_write_tracking()
        except InputError as error:
            pytest.skip(str(error))
    rights = [*KEPT, ALL, Right("CAP_KILL", "")]
    with live("--monitor", source, "--", "sh", "-c", TELLS) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        first = json.loads(running.stdout.readline())
        for thread in statuses(running.pid):
            assert thread == {
                **dict.fromkeys(SETS, mask(*rights) & capget().permitted),
                "CapInh": 0,
                "CapAmb": 0,
                "NoNewPrivs": 1,
            }
        command = first["processes"][0]["pid"]  # what it forks may be there, too
        assert statuses(command) == [parsed(Path("/proc/self/status").read_text())]
        said = "".join(iter(running.stderr.readline, "that is all\n"))
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert not [note for note in first["notes"] if "threads" in note]
    assert ("OPENBLAS_NUM_THREADS=" in said) == ("OPENBLAS_NUM_THREADS" in os.environ)
    assert not Path(f"/proc/{command}").exists()


@needs_root
@needs_setpriv
def test_a_live_run_without_root_names_what_is_missing():
    lacks = as_nobody("CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN")
    with live("--monitor", "kpageflags", "--", "true", before=lacks) as running:
        _, said = running.communicate(timeout=60)
    if "Permission denied" in said and "gpuscan: error" not in said:
        pytest.skip("this checkout may not be read by others")
    assert running.returncode == 2
    assert said == (
        "gpuscan: error: gpuscan live lacks CAP_DAC_READ_SEARCH (to open /proc/kpageflags, which root owns); "
        "run it with sudo, or give it these capabilities\n"
    )


@pytest.mark.slow  # 50 s: who owns no cache of compiled kernels compiles them all
@needs_root
@needs_setpriv
def test_a_live_run_without_root_works_with_the_capabilities_it_names():
    enough = as_nobody("CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
    with live("--monitor", "kpageflags", "--", "sleep", "60", before=enough) as running:
        assert running.stdout is not None
        first = json.loads(running.stdout.readline())
        assert {thread["CapPrm"] for thread in statuses(running.pid)} == {mask(*KEPT, ALL)}
        command = first["processes"][0]["pid"]  # what it forks may be there, too
        (whole,) = statuses(command)
        assert whole["CapPrm"] == whole["CapAmb"] == mask(*KEPT) | 1 << 23
        assert whole["NoNewPrivs"] == 0
        running.terminate()
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert sum(json.loads(out.splitlines()[-1])["resident_pages"].values()) > 0


@needs_root
def test_who_calls_it_from_a_process_of_their_own_keeps_all(capsys):
    before = Path("/proc/self/status").read_text()
    arguments = ["live", "--device", "cpu", "--dry-run", "--monitor", "kpageflags", "--", "true"]
    assert main(arguments) == 0
    assert parsed(Path("/proc/self/status").read_text()) == parsed(before)


def test_every_source_says_which_rights_it_needs():
    for source in MONITORS.names:
        rights = rights_of(source)
        assert all(right.name in BITS for right in rights)
        assert {FRAMES, FLAGS} <= set(rights)
    assert set(MONITORS.get("soft-dirty").keeps) <= set(rights_of("soft-dirty"))
    assert SYSFS in rights_of("damon")
    with pytest.raises(InputError, match="no monitor"):
        rights_of("auto")


def test_what_is_missing_is_said_once_and_not_of_what_root_owns(tmp_path, monkeypatch):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("CapEff:\t0000000000200000\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert capabilities.missing([FRAMES, FLAGS, *KEPT], System(tmp_path)).count("CAP_DAC_READ_SEARCH") == 1
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert capabilities.missing([FRAMES, FLAGS], System(tmp_path)) == ""


@needs_root
def test_threads_that_may_do_more_are_seen():
    code = """
import threading
n_before = len(list(p.Path('/proc/self/task').iterdir()))  # one, and those of libraries
wait = threading.Event()
thread = threading.Thread(target=wait.wait, daemon=True); thread.start()
p.give_up([])
assert p.n_threads_with_more() == n_before
wait.set(); thread.join()
assert p.n_threads_with_more() == n_before - 1
"""
    in_python(code)


def test_the_sets_are_those_that_the_kernel_shows():
    shown = parsed(Path("/proc/thread-self/status").read_text())
    assert capget() == CapabilitySets(shown["CapEff"], shown["CapPrm"], shown["CapInh"])
    assert privileges.n_threads_with_more() == 0


def test_a_thread_that_is_ending_keeps_no_rights(monkeypatch):
    looks = iter([1, 1, 0])
    monkeypatch.setattr(privileges, "_n_with_more", lambda root: next(looks))
    assert privileges.n_threads_with_more() == 0
    monkeypatch.setattr(privileges, "_n_with_more", lambda root: 2)
    assert privileges.n_threads_with_more() == 2
