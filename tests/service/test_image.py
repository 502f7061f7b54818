"""The container image, built as it is shipped, and the service in it with what the DaemonSet gives it.

Its base is made of Debian's packages and has the name that the recipe asks for, so no registry of images is
needed. Run by ``make test-image``: docs/notes/packaging.md, *The container image*.
"""

from __future__ import annotations

import _imp
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuscan.base.program import PROGRAM
from gpuscan.service.install import shipped
from machine_trees import NODE, write_tree
from zone_texts import zone

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
REQUIRED = "GPUSCAN_IMAGE_REQUIRED"
"""Where it is set, nothing is skipped."""
BLOCKS = Path("/sys/devices/system/memory")
OF_BUILDAH = Path("/var/lib/containers/cache")
"""What it knows of layers, wherever its storage is."""
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
OF_THE_BUILD = (Path("/etc/ssl/certs"), Path("/etc/pip.conf"))
"""How this machine reaches its package index; an image is not to keep them."""
START_LIMIT_S = 300
"""A first start compiles."""

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(3600)]


def why_not() -> str:
    """Return why no image can be built and run here; empty where it can."""
    for tool, package in (("buildah", "buildah"), ("debootstrap", "debootstrap"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"there is no {tool} (Debian's package {package})"
    if os.geteuid():
        return "only root sees the frames of pages"
    if len(list(Path("/", NODE).glob("node[0-9]*"))) != 1 or not BLOCKS.is_dir():
        return "a machine of one node with memory blocks is needed, which is shown as one of two"
    return ""


def said(*command: object, **how: Any) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def pod() -> dict[str, Any]:
    return dict(yaml.safe_load(shipped("daemonset.yaml"))["spec"]["template"]["spec"])


def of_the_container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


class Builder:
    """buildah with a storage of its own, and what it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        self.environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
        self.storage = f"--root {folder}/storage --runroot {folder}/run --storage-driver vfs".split()

    def __call__(self, *arguments: object, **how: Any) -> str:
        """Run a command of buildah's; return what it printed, without a newline."""
        command = ("buildah", *self.storage, *arguments)
        return said(*command, env=self.environment, **how).removesuffix("\n")

    def make_base(self, name: str) -> None:
        """Make an image with the Python that a name says, of the Debian release that it says."""
        found = re.fullmatch(r".*/python:([0-9.]+)-slim-([a-z]+)", name)
        assert found, name
        version, release = found.groups()
        tree = self.folder / "base"
        said("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", release, tree)
        assert (tree / f"usr/bin/python{version}").is_file()
        (tree / "usr/bin/python").symlink_to("python3")
        container = self("from", "scratch")
        self("add", "--quiet", container, tree, "/")
        self("commit", "--quiet", container, name)
        self("rm", container)

    def build(self, recipe: str) -> None:
        """Build the image of this checkout."""
        given = [f"--volume={place}:{place}:ro" for place in OF_THE_BUILD if place.exists()]
        options = ("--isolation=chroot", "--pull=never", *given, "--tag=gpuscan", "--file=-")
        self("bud", *options, ROOT, input=recipe)

    def size(self, name: str) -> str:
        (image,) = json.loads(self("images", "--json", name))
        return str(image["size"])


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    if why := why_not():
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(why)
    was_there = OF_BUILDAH.parent.exists()
    with tempfile.TemporaryDirectory(prefix="gpuscan-image-") as name:
        builder = Builder(Path(name))
        recipe = shipped("Containerfile")
        try:
            builder.make_base(base_of(recipe))
            builder.build(recipe)
            yield builder
        finally:
            if not was_there:
                shutil.rmtree(OF_BUILDAH, ignore_errors=True)
                with suppress(OSError):  # another's, or not made yet
                    OF_BUILDAH.parent.rmdir()
        assert name not in Path("/proc/mounts").read_text()
    assert not Path(name).exists()


def base_of(recipe: str) -> str:
    (name,) = set(re.findall(r"^FROM (\S+/\S+)", recipe, re.MULTILINE))
    return str(name)


@contextmanager
def files_of(builder: Builder, image: str) -> Iterator[Path]:
    """Yield where the files of an image lie."""
    container = builder("from", "--pull=never", image)
    try:
        yield Path(builder("mount", container))
    finally:
        builder("umount", container)
        builder("rm", container)


def test_it_has_gpuscan_and_nothing_of_its_build(builder: Builder) -> None:
    base = base_of(shipped("Containerfile"))
    LOG.info("the image has %s, of which its base is %s", builder.size("gpuscan"), builder.size(base))
    with files_of(builder, base) as below, files_of(builder, "gpuscan") as files:
        was = {path.relative_to(below) for path in below.rglob("*")}
        more = {path.relative_to(files) for path in files.rglob("*")} - was
        opt = Path("opt/gpuscan")
        assert {path for path in more if not path.is_relative_to(opt)} == set()
        library = opt / "lib" / (files / opt / "lib").glob("python*").__next__().name / "site-packages"
        assert library / "gpuscan/kernels/reference.py" in more
        assert library / "gpuscan/service/shipped/gpuscan.service" in more
        assert not any(path.name in ("pip", "tests") or path.suffix in (".nbi", ".nbc") for path in more)
        check_byte_code(files / library)


def check_byte_code(library: Path) -> None:
    """Check that each module's is there, and is taken whatever the time of its source (PEP 552).

    Else each start compiles it anew: the root is read-only.
    """
    sources = [path for path in library.rglob("*.py") if path.stem.isidentifier()]
    assert len(sources) > 1000
    for source in sources:
        (code,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        compiled = code.read_bytes()
        assert int.from_bytes(compiled[4:8], "little") == 0b01, source  # by a hash, and not checked
        version = int.from_bytes(compiled[:4], "little")  # of the image's Python, not of this one
        assert compiled[8:16] == _imp.source_hash(version, source.read_bytes()), source


def config_of_the_image(builder: Builder) -> dict[str, Any]:
    return dict(json.loads(builder("inspect", "--type=image", "gpuscan"))["OCIv1"]["config"])


def test_it_starts_what_the_daemonset_starts(builder: Builder) -> None:
    config = config_of_the_image(builder)
    assert config["Cmd"] == of_the_container()["args"]
    assert "User" not in config
    environment = dict(each.split("=", 1) for each in config["Env"])
    assert set(environment) == {"PATH", "NUMBA_CACHE_DIR"}
    mounts = [mount["mountPath"] for mount in of_the_container()["volumeMounts"]]
    assert environment["NUMBA_CACHE_DIR"] in mounts


# What buildah does not do by itself: the root is read-only, the rights are those of the DaemonSet alone.
# And the kernel says that there are two nodes.
_ENTER = """
set -e
mount --bind /box/sys/devices/system/node /sys/devices/system/node
mount --bind /box/proc/zoneinfo /proc/zoneinfo
mount -o remount,bind,ro /
if touch /x 2>/dev/null; then echo the root can be written; exit 99; fi
echo $$ >/box/pid
rights=$1
shift
exec setpriv --bounding-set "$rights" --inh-caps=-all "$@"
"""


def split_nodes(folder: Path) -> None:
    """Write what the kernel would say if all but the first block of memory were a second node's."""
    numbers = sorted(int(each.name[6:]) for each in BLOCKS.glob("memory[0-9]*"))
    block_pages = int((BLOCKS / "block_size_bytes").read_text(), 16) // os.sysconf("SC_PAGE_SIZE")
    files = {f"{NODE}/online": "0-1\n", "proc/zoneinfo": ""}
    for nid, mine in enumerate((numbers[:1], numbers[1:])):
        files[f"{NODE}/node{nid}/cpulist"] = "0\n" if nid == 0 else "\n"
        files[f"{NODE}/node{nid}/distance"] = ("10 20\n", "20 10\n")[nid]
        files |= {f"{NODE}/node{nid}/memory{number}": "" for number in mine}
        start, end = mine[0] * block_pages, (mine[-1] + 1) * block_pages
        files["proc/zoneinfo"] += zone(nid, "Normal", start, end - start, protection="(0)")
    write_tree(folder, files)


class Pod:
    """A container of the image as the DaemonSet has one, with empty directories for those of a node."""

    def __init__(self, builder: Builder, folder: Path, config: str) -> None:
        self.builder = builder
        self.box = folder / "box"
        split_nodes(self.box)
        (self.box / "enter").write_text(_ENTER)
        self.volumes = [f"--volume={self.box}:/box"]
        self.of: dict[str, Path] = {}
        """Where the directories of the node lie, by the name of their volume."""
        sources = {volume["name"]: volume.get("hostPath", {}).get("path", "") for volume in pod()["volumes"]}
        for mount in of_the_container()["volumeMounts"]:
            name, place = mount["name"], mount["mountPath"]
            if place.startswith("/sys/"):  # the tests write to no DAMON, and to no trace, of this machine
                source, how = Path(sources[name]), ":ro"
                if not source.is_dir():
                    continue
            else:
                source = self.of[name] = folder / name
                source.mkdir()
                how = ":ro" if mount.get("readOnly") else ""
            self.volumes.append(f"--volume={source}:{place}{how}")
        (self.of["config"] / "service.toml").write_text(config)
        security = of_the_container()["securityContext"]
        assert security["seccompProfile"]["type"] == "Unconfined"
        self.container = builder("from", "--pull=never", "--security-opt=seccomp=unconfined", "gpuscan")
        self.rights: list[str] = security["capabilities"]["add"]

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs gpuscan in the container."""
        (program,) = config_of_the_image(self.builder)["Entrypoint"]
        given = [f"--cap-add=CAP_{right}" for right in self.rights]
        kept = ",".join(["-all", *(f"+{right.lower()}" for right in self.rights)])
        run = ["buildah", *self.builder.storage, "run", "--isolation=chroot", *given, *self.volumes]
        return [*run, self.container, "--", "sh", "/box/enter", kept, program, *arguments]

    def run(self, *arguments: str) -> str:
        return said(*self.command(*arguments), env=self.builder.environment)

    @contextmanager
    def service(self) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
        """Start what the image starts; yield its PID, the process to wait for, and what it says."""
        log = self.box / "log"
        log.unlink(missing_ok=True)
        with log.open("wb") as file:
            command = self.command(*config_of_the_image(self.builder)["Cmd"])
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.builder.environment
            )
        try:
            until_s = time.monotonic() + START_LIMIT_S
            while "running, " not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until_s, log.read_text()
                time.sleep(0.1)
            yield int((self.box / "pid").read_text()), process, log
        finally:
            if process.poll() is None:
                os.kill(int((self.box / "pid").read_text()), signal.SIGKILL)
                process.wait()

    def close(self) -> None:
        self.builder("rm", self.container)


@contextmanager
def opened(builder: Builder, folder: Path, config: str) -> Iterator[Pod]:
    found = Pod(builder, folder, config)
    try:
        yield found
    finally:
        found.close()


def processes_in_images() -> list[str]:
    """Return the command lines of processes that run a gpuscan of an image."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command.startswith("/opt/gpuscan/"):
            found.append(command)
    return found


def test_commands_in_a_read_only_root(builder: Builder, tmp_path: Path) -> None:
    with opened(builder, tmp_path, shipped("example.toml")) as box:
        assert box.run("--version").startswith("gpuscan ")
        checks = {check["name"]: check for check in json.loads(box.run("doctor", "--json"))["checks"]}
        assert not checks["live --monitor kpageflags"]["remedy"], checks
        assert checks["prometheus-client"]["found"][0].isdigit()
        assert checks["kernel cache"]["found"].startswith("/var/cache/gpuscan/")
        assert "makes sense: 2 rules" in box.run(*of_the_container()["args"], "--check")


_BUSY = """
from pathlib import Path
import time
Path("/proc/self/comm").write_text("imagetest")
written = bytearray(16 << 20)
while True:
    for at in range(0, len(written), 4096):
        written[at] ^= 1
    time.sleep(0.05)
"""
# It goes up to node 0, where the kernel has all pages already: none moves, and each call is answered.
_CONFIG = """
[service]
monitor = "kpageflags"
cpu = "50%"
tiers = ["1=1"]
[[rule]]
name = "own"
command = "imagetest"
policy = "promote"
"""


@contextmanager
def busy() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def status(box: Pod) -> dict[str, Any]:
    """Ask from outside, through the socket in the node's directory."""
    program = Path(sys.executable).with_name(PROGRAM)
    return dict(
        json.loads(said(program, "ctl", "status", "--json", "--socket", box.of["run"] / "service.sock"))
    )


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def kept(place: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


def limit_kib() -> int:
    found = re.fullmatch(r"(\d+)Mi", of_the_container()["resources"]["limits"]["memory"])
    assert found
    return int(found[1]) << 10


def test_the_service_in_it_looks_answers_and_ends(builder: Builder, tmp_path: Path) -> None:
    with opened(builder, tmp_path, _CONFIG) as box, busy():
        with box.service() as (pid, process, log):
            until_s = time.monotonic() + 60
            while (found := status(box))["policies"][0]["promoted_pages"] == 0:
                assert time.monotonic() < until_s, found
                time.sleep(0.5)
            assert found["monitor"] == "kpageflags"
            assert found["n_processes"] == 1
            of_it = facts(pid)
            # What it needs until the end: DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN and SYS_NICE.
            assert int(of_it["CapEff"], 16) == 1 << 2 | 1 << 19 | 1 << 21 | 1 << 23
            assert int(of_it["VmHWM"].split()[0]) < limit_kib(), of_it  # the compiler's, too
            LOG.info("first start: resident %s, at most %s", of_it["VmRSS"], of_it["VmHWM"])
            os.kill(pid, signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
            assert "gpuscan: ended; " in log.read_text()
        assert [path.name for path in box.of["run"].iterdir()] == ["service.sock.lock"]
        assert not any(box.of["tmp"].iterdir())
        assert processes_in_images() == []
        history = box.of["state"] / "history.sqlite"
        notes = said(Path(sys.executable).with_name(PROGRAM), "history", "--history", history, "--json")
        kinds = [json.loads(line).get("kind") for line in notes.splitlines() if '"t_ns"' in line]
        assert (kinds[0], kinds[-1]) == ("start", "stop")
        compiled = kept(box.of["cache"])
        assert compiled
        with box.service() as (pid, process, log):  # the next pod of this node has nothing to compile
            of_it = facts(pid)
            LOG.info("later start: resident %s, at most %s", of_it["VmRSS"], of_it["VmHWM"])
            os.kill(pid, signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        assert kept(box.of["cache"]) == compiled
