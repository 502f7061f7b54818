"""Files for a container: their rights are those of the unit and no more, and the service lives with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuscan.cli.main import main
from gpuscan.linux.damon_state import ADMIN as DAMON_ADMIN
from gpuscan.linux.kernel_settings import SETTINGS
from gpuscan.service.install import shipped, unit_text
from gpuscan.service.rights import started_with
from optional import package_or_skip

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "kernels/cpu/__pycache__"
RIGHTS = {
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_SETPCAP",
    "CAP_SYS_ADMIN",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
}
UNIT = unit_text(Path("/etc/gpuscan/service.toml"))


def unit_value(key: str) -> str:
    (found,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(found)


def daemonset() -> dict[str, Any]:
    return dict(yaml.safe_load(shipped("daemonset.yaml")))


def container(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = document["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_unit_and_daemonset_have_the_rights_that_its_parts_name_and_no_more() -> None:
    assert set(started_with()) == RIGHTS
    assert set(unit_value("CapabilityBoundingSet").split()) == RIGHTS
    security = container(daemonset())["securityContext"]
    assert {f"CAP_{name}" for name in security["capabilities"]["add"]} == RIGHTS
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["privileged"] is False
    assert security["readOnlyRootFilesystem"] is True
    for name, why in started_with().items():  # each says why, in both
        assert f"# {name}: {why}." in UNIT
        assert f"# {why}.\n                - {name.removeprefix('CAP_')}" in shipped("daemonset.yaml")


def test_unit_and_daemonset_write_to_the_same_places() -> None:
    pod = daemonset()["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(daemonset())["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    written = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    of_the_unit = {
        f"/run/{unit_value('RuntimeDirectory')}",
        f"/var/lib/{unit_value('StateDirectory')}",
        f"/var/cache/{unit_value('CacheDirectory')}",
    }
    of_the_kernel = {"/sys/kernel/mm/damon", "/sys/kernel/mm/page_idle", "/sys/kernel/tracing"}
    assert written == of_the_unit | of_the_kernel | {"/tmp"}
    for path in of_the_unit | of_the_kernel:
        assert volumes[mounts[path]["name"]]["hostPath"]["path"] == path
    assert pod["hostPID"] is True
    assert not {"hostNetwork", "hostIPC", "serviceAccountName"} & pod.keys()
    assert pod["terminationGracePeriodSeconds"] == int(unit_value("TimeoutStopSec"))


VERSIONS = ("1.30", "1.37")  # the first with appArmorProfile, and the last that the schemas are of


def test_the_unit_may_write_what_the_kernel_is_set_by() -> None:
    """ProtectKernelTunables= makes the rest of /proc/sys and /sys read-only."""
    assert unit_value("ProtectKernelTunables") == "yes"
    places = [Path(each.removeprefix("-")) for each in unit_value("ReadWritePaths").split()]
    for name in (*SETTINGS, DAMON_ADMIN):
        assert any(Path("/", name).is_relative_to(place) for place in places), name


@pytest.mark.parametrize("version", VERSIONS)
def test_the_daemonset_is_one_by_the_schema_of_kubernetes(version: str) -> None:
    package_or_skip("kubernetes_validate", "test")
    import kubernetes_validate

    document = daemonset()
    assert kubernetes_validate.validate(document, version, strict=True) is not None
    wrong: list[Any] = [deepcopy(document) for _ in range(3)]
    container(wrong[0])["securityContext"]["readOnlyRootFileSystem"] = True  # as it is often misspelt
    container(wrong[1])["securityContext"]["capabilities"]["add"] = "SYS_ADMIN"
    del wrong[2]["spec"]["selector"]
    for each in wrong:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(each, version, strict=True)


def test_its_labels_select_its_own_pods() -> None:
    spec = daemonset()["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_image_is_built_of_this_tree_and_starts_what_the_daemonset_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["service", "--show", "Containerfile"]) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages = [line.split()[1:] for line in lines if line.startswith("FROM ")]
    names = {words[2] for words in stages if len(words) == 3}
    # Its virtual environment is made for the very Python that it runs with.
    assert len({words[0] for words in stages} - names) == 1
    (command,) = (json.loads(line[4:]) for line in lines if line.startswith("CMD "))
    assert command == container(daemonset())["args"]
    assert main(["service", "--show", "daemonset.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == daemonset()


# All is read-only but what a container may write to, and compiled code, which a container has in its cache.
# Then come the capabilities of the DaemonSet, and no others.
_BOX = """
set -e
for place in /run /var/lib /var/cache; do mount -t tmpfs tmpfs $place; mkdir $place/gpuscan; done
mount -t tmpfs tmpfs /tmp
mount --bind "$5" "$5"
findmnt -rno TARGET | while read -r target; do
    case $target in
        /run | /var/lib | /var/cache | /tmp | /proc | /proc/* | /dev | /dev/* | /sys/* | "$5") ;;
        *) mount -o remount,bind,ro "$target" 2>/dev/null || true ;;
    esac
done
for place in /run /var/lib /var/cache; do
    mount --bind $place/gpuscan $place/gpuscan
    mount -o remount,bind,ro $place
done
exec setpriv --bounding-set "$1" --inh-caps=-all "$2" -c "$3" "$4"
"""
_INSIDE = """
import os, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
for place in ("/etc/x", "/var/x", "/run/x", os.path.expanduser("~/x"), sys.prefix + "/x"):
    try:
        open(place, "w")
    except OSError:
        continue
    sys.exit(f"{place} can be written")
from gpuscan.base.program import PROGRAM
rules = '[[rule]]\\nname = "db"\\ncommand = "data*"\\n'
Path("/tmp/c.toml").write_text('[service]\\nmonitor = "kpageflags"\\ncpu = "50%"\\n' + rules)
gpuscan = str(Path(sys.executable).with_name(PROGRAM))
def told(*arguments):
    print(subprocess.run([gpuscan, *arguments], check=True, capture_output=True, text=True).stdout)
told("service", "/tmp/c.toml", "--check")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))])
sys.path.insert(0, sys.argv[1])
from gpuscan.history.database import History
from gpuscan.history.schema import HISTORY
from gpuscan.live.stop import Stop
from gpuscan.service.control import ControlSocket
from gpuscan.service.load import load_config
from gpuscan.service.session import ServiceSession
from gpuscan.service.wire import SOCKET
from livesim.machine import Machine
from livesim.service import script
from livesim.system import SimulatedSystem

scenario, _ = script(4)
machine = Machine(replace(scenario, events=()))
machine.world.spawn(40, command="database")
system = SimulatedSystem(machine)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))

class Inbox:
    # The real socket; time is the simulated kernel's.
    def __init__(self, stop):
        self.stop, self.own = stop, Stop()
        self.socket = ControlSocket(Path("/") / SOCKET, None, self.own)
    def wait(self, limit_s):
        orders = self.socket.wait(0.01)
        if ended:
            system._take_signal(signal.SIGTERM)
        elif not orders:
            self.stop.wait(max(limit_s, 0.01))
            self.stop.slept()
        return orders
    def close(self):
        self.socket.close()

config = load_config(Path("/tmp/c.toml"))
def keep():
    return History(Path("/") / HISTORY, 4 << 20)
with ServiceSession(config, lambda: config, Inbox, system, open_recorder=keep) as session:
    asked = []
    def on_start():
        command = [gpuscan, "ctl", "status", "--json"]
        asked.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    def on_turn():
        if asked[0].poll() is not None and not ended:
            os.kill(os.getpid(), signal.SIGTERM)
    session.run(on_start, lambda _: None, on_turn)
print(asked[0].stdout.read())
told("history", "--since", "9999d", "--json")
"""


def why_no_box() -> str:
    """Return why nothing can be put into namespaces here; empty where it can."""
    for tool in ("unshare", "setpriv", "findmnt"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() if tried.returncode else ""


@pytest.mark.slow
def test_it_lives_in_a_read_only_root_with_these_rights_alone() -> None:
    if why := why_no_box():
        pytest.skip(f"namespaces of mounts are not allowed here: {why}")
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(RIGHTS))
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOX, "box"]
    done = subprocess.run(
        [*command, f"-all,{names}", sys.executable, _INSIDE, str(ROOT / "tests"), str(COMPILED)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "makes sense: 1 rule" in done.stdout
    bits = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_SETPCAP": 8}
    bits |= {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23}
    assert str([f"{sum(1 << bits[name] for name in RIGHTS):016x}"] * 2) in done.stdout
    documents = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    kinds = [document["kind"] for document in documents if "t_ns" in document]
    assert kinds[0] == "start"
    assert kinds[-1] == "stop"
    assert '"monitor": "kpageflags"' in done.stdout
