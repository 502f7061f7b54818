"""Boots a guest, runs commands in it and stops it; nothing of it outlives the one who asked."""

from __future__ import annotations

import hashlib
import os
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from . import parts as guest_parts
from .host_clock import tsc_khz
from .initramfs import initramfs
from .machine import Machine
from .package import PACKAGE_VARIABLE, Prepared

CHECKOUT = Path(__file__).parents[2]
AGENT = Path(__file__).parent / "agent"
BOOT_LIMIT_S = 600.0
N_BOOTS = 3
STOP_LIMIT_S = 10.0

OUT_IN_GUEST = "/run/guest/out"
"""Where a command leaves files for the host; also in the variable ``GUEST_OUT``."""
PACKAGE_IN_GUEST = "/run/package/package.deb"
"""The package, where there is one."""

# Compiling takes 3 minutes in the guest and 20 s on the host. So the guest takes what the host has compiled,
# for no CPU in particular.
PORTABLE_NUMBA = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}

# What is compiled ahead: all that a live run and a run on a snapshot use.
_WARM = """
from gpuscan import Store, resolve_topology
from gpuscan.cli.main import main
from gpuscan.live.pipeline import warm_up
warm_up(Store(resolve_topology("two-socket-cxl", 1 << 30), device="cpu", large_folios=True))
main(["run", "--memory", "1GiB", "--ticks", "1", "--device", "cpu", "--quiet"])
"""

Sink = Callable[[bytes], object]


class GuestError(Exception):
    """The guest did not start, ended early or ran out of time; the message has the last of its console."""


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended: its exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Guest:
    """A running guest, as a context manager; one command at a time.

    Args:
        machine: what QEMU is to emulate.
        out: a folder that commands may write to, as ``GUEST_OUT``; made if it is not there.
        kernel: the folder of another kernel than the fetched one, see :func:`tests.vm.parts.find`.
        systemd: the host's systemd is the first process, and knows no unit but those below /run.
        package: a Debian package that commands may install; see :mod:`tests.vm.package`.

    Raises:
        PartsError: QEMU, busybox or the kernel is missing.
        GuestError: it does not start.
    """

    def __init__(
        self,
        machine: Machine | None = None,
        *,
        out: Path | None = None,
        kernel: Path | None = None,
        systemd: bool = False,
        package: Path | None = None,
    ) -> None:
        self.parts = guest_parts.find(kernel)
        self._package: Prepared | None = None
        if package is not None:
            if not any(module.stem == "overlay" for module in self.parts.modules):
                raise guest_parts.PartsError(
                    f"a package is laid over /usr, and the kernel has no overlay.ko: {guest_parts.FETCH}"
                )
            self._package = Prepared(package, PORTABLE_NUMBA)
        self._machine = machine or Machine()
        self._scratch = tempfile.TemporaryDirectory(prefix="gpuscan-guest-")
        self._shared = Path(self._scratch.name)
        self._out = out
        self._manager = "systemd" if systemd else "none"
        self._n_jobs = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def run(
        self,
        command: Sequence[str],
        *,
        limit_s: float,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> Result:
        """Run a command in the checkout, with the environment of this Python first in its path.

        Args:
            command: program and arguments.
            limit_s: after so many seconds the guest is ended with all that runs in it.
            stdout: called with what the command writes there, as it comes.
            stderr: likewise.

        Raises:
            GuestError: the guest went away or the time is over.
        """
        self._n_jobs += 1
        job = self._shared / str(self._n_jobs)
        job.mkdir()
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self._environment().items()]
        (job / "command").write_text("\n".join([*lines, f"cd {CHECKOUT}", f"exec {shlex.join(command)}\n"]))
        followed = {"stdout": stdout, "stderr": stderr}
        for name in followed:
            (job / name).touch()
        files = {name: (job / name).open("rb") for name in followed}
        written: dict[str, list[bytes]] = {name: [] for name in followed}

        def follow() -> None:
            for name, sink in followed.items():
                part = files[name].read()
                written[name].append(part)
                if part and sink is not None:
                    sink(part)

        self._tell(f"{self._n_jobs}\n")
        try:
            self._wait_for(str(self._n_jobs), limit_s, follow)
        finally:
            follow()
            for file in files.values():
                file.close()
        said = {name: b"".join(parts).decode(errors="replace") for name, parts in written.items()}
        return Result(int((job / "status").read_text()), said["stdout"], said["stderr"])

    def kernel_log(self) -> str:
        """Return the guest's kernel log since it started, with levels (``dmesg -r``)."""
        return self.run(["dmesg", "-r"], limit_s=20).stdout

    def stop(self) -> None:
        """Power the guest off, kill QEMU if that takes too long, and remove what it used."""
        self._end_process()
        out = self._shared / "out"
        if self._out is not None and out.exists():
            shutil.copytree(out, self._out, dirs_exist_ok=True)
        self._scratch.cleanup()
        if self._package is not None:
            self._package.close()
            self._package = None

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            try:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(STOP_LIMIT_S)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                pass
            finally:
                process.kill()

    def _boot(self) -> None:
        shared = self._shared
        (shared / "out").mkdir()
        shutil.copy(AGENT, shared / "agent")
        (shared / "initramfs").write_bytes(initramfs(self.parts))
        compile_modules()
        numba = compiled_kernels()
        # quiet: else the emulated serial line sets the pace. tsc: the kernel distrusts it across two sockets,
        # and to read any other clock is to leave the emulation. tsc_early_khz: it is the
        # host's, and to measure it while the host is busy is to be wrong by any factor: 6 was seen.
        # no_timer_check: on a host too busy for a few ticks in time the kernel panics (check_timer()).
        # pti: QEMU's TLB keeps thousands of translations, and the accessed bits that DAMON and reclaim clear
        # without a flush stay clear as long as it does; so every interrupt shall switch page tables.
        # mitigations=off would undo it, so the slow ones are switched off one by one.
        # trace_event: the first event that is traced patches the scheduler's code, to note the names of
        # tasks (tracing_start_cmdline_record()), and QEMU may run the breakpoint of a patch when it is
        # over ("Oops: int3" in ttwu_do_activate()). So one that never comes is on from the start.
        # memhp_default_state: memory that is plugged is for what can be moved, so it can go offline again.
        kernel_arguments = (
            f"console=ttyS0 quiet panic=-1 tsc=reliable tsc_early_khz={tsc_khz()} no_timer_check pti=on "
            "nospectre_v1 nospectre_v2 spec_store_bypass_disable=off retbleed=off "
            "trace_event=power:suspend_resume memhp_default_state=online_movable"
        )
        command = [
            # QEMU does not survive the one who started it, however that ends.
            *("setpriv", "--pdeathsig", "KILL", "--", str(self.parts.qemu)),
            *self._machine.qemu_arguments(),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(self.parts.kernel), "-initrd", str(shared / "initramfs")),
            *(
                "-append",
                f"{kernel_arguments} gpuscan_bind={CHECKOUT} gpuscan_manager={self._manager} "
                f"gpuscan_package={self._package.folder if self._package else ''}",
                "-serial",
                f"file:{shared / 'console'}",
            ),
            *("-device", "virtio-serial-pci", "-chardev", "stdio,id=port,signal=off"),
            *("-device", "virtserialport,chardev=port"),
            *_share("host", Path("/"), "readonly=on,"),
            *_share("guest", shared),
            *_share("numba", numba),
        ]
        for boot in range(1, N_BOOTS + 1):
            try:
                self._start(command)
                return
            except GuestError as error:
                # What is said of patches under trace_event happens now and then while the kernel starts, too.
                if boot == N_BOOTS or "Kernel panic" not in str(error):
                    raise
                sys.stderr.write(f"{error}\nThe kernel panicked while it started; once more.\n")

    def _start(self, command: list[str]) -> None:
        with (self._shared / "qemu").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            self._wait_for("ready", BOOT_LIMIT_S, lambda: None)
        except BaseException:
            self._end_process()
            raise

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in ("CI", "GPUSCAN_SOAK_S") if name in os.environ}
        if self._package is not None:
            passed[PACKAGE_VARIABLE] = PACKAGE_IN_GUEST
        passed |= self._machine.variables()
        return {
            "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "GUEST_OUT": OUT_IN_GUEST,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "NUMBA_CACHE_DIR": "/run/numba",
            # To import what other plugins of pytest do takes 30 s there.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "pytest_timeout",
            "NUMPY_MADVISE_HUGEPAGE": "0",  # for the reason that init has: large arrays would ask for them
            **PORTABLE_NUMBA,
            **passed,
        }

    def _tell(self, text: str) -> None:
        if self._process is None:
            raise GuestError("the guest is not running")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error("the guest is gone") from None

    def _wait_for(self, word: str, limit_s: float, meanwhile: Callable[[], None]) -> None:
        """Wait until the agent says ``word``, calling ``meanwhile`` several times a second."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + limit_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while word not in said.decode().split("\n")[:-1]:
                if time.monotonic() > deadline:
                    error = self._error(f"the time of {limit_s:g} s is over")
                    self._process.kill()
                    raise error
                if selector.select(0.1):
                    part = _read_now(self._process.stdout)
                    if not part:
                        raise self._error("the guest ended early")
                    said += part
                meanwhile()

    def _error(self, what: str) -> GuestError:
        tails = []
        for name in ("qemu", "console"):
            file = self._shared / name
            text = file.read_text(errors="replace").strip() if file.exists() else ""
            tails += [f"--- {name} ---", *text.splitlines()[-25:]] if text else []
        return GuestError("\n".join([what, *tails]))


def compile_modules() -> None:
    """Compile the checkout's modules to byte code: the guest keeps none, each of its Pythons would anew."""
    names = ("gpuscan", "kernels", "cli", "tests/guest")  # compileall does not follow links
    command = [sys.executable, "-m", "compileall", "-q", *names]
    subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=False)


def compiled_kernels() -> Path:
    """Return a folder of compiled kernels that the guest can use, after compiling them here if need be."""
    folder = guest_parts.cache_dir() / "numba"
    sources = sorted(path for name in ("gpuscan", "kernels") for path in (CHECKOUT / name).rglob("*.py"))
    # Numba keeps what it compiled under the path of the source: another checkout's is never found.
    digest = hashlib.sha256(b"".join([os.fsencode(CHECKOUT), _WARM.encode(), *map(Path.read_bytes, sources)]))
    done = folder / f"{digest.hexdigest()[:16]}.compiled"
    if not done.exists():
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, **PORTABLE_NUMBA, "NUMBA_CACHE_DIR": str(folder)}
        command = [sys.executable, "-c", _WARM]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=CHECKOUT)
        done.touch()
    return folder


def _share(tag: str, path: Path, options: str = "") -> list[str]:
    # remap: the host's root spans several file systems, whose inode numbers collide
    return [
        "-fsdev",
        f"local,id={tag},path={path},security_model=none,{options}multidevs=remap",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def _read_now(stream: IO[bytes]) -> bytes:
    return os.read(stream.fileno(), 4096)
