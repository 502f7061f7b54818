"""The service as systemd runs it, by the unit file that is shipped; the guest's first process is systemd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuscan.service import install
from gpuscan.service.client import ask

from . import package
from .processes import eventually

NAME = "gpuscan.service"
UNITS = Path("/run/systemd/system")
SOCKET = Path("/run/gpuscan/service.sock")
HISTORY = Path("/var/lib/gpuscan/history.sqlite")
DAMON_STATE = Path("/run/gpuscan/damon.json")
CONFIG = Path("/") / install.CONFIG
_LONGEST_START_S = 900.0
"""As in the unit."""
# For no CPU in particular: code for the one that QEMU names has instructions that it does not know.
_PASSED = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMPY_MADVISE_HUGEPAGE")
_DROP_IN = """[Service]
Environment={environment}
StandardError=append:{complaints}
"""
# The host has compiled what there is of the checkout.
_OF_CHECKOUT = """Environment="NUMBA_CACHE_DIR={numba}" "PYTHONDONTWRITEBYTECODE=1"
ReadWritePaths={numba}
"""


class Unit:
    """The service under systemd from the start of the ``with`` block to its end.

    It is the package's where the guest has one, installed if it is not yet, and else the checkout's.

    Args:
        folder: where its configuration is, ``service.toml``; none that the unit hides, as /tmp is.
        compiles: it is to compile its kernels itself, and not to find what the host has compiled.
    """

    def __init__(self, folder: Path, *, compiles: bool = False) -> None:
        self._complaints = folder / "service.stderr"
        passed = [name for name in _PASSED if name in os.environ]
        environment = " ".join(f'"{name}={os.environ[name]}"' for name in passed)
        text = _DROP_IN.format(environment=environment, complaints=self._complaints)
        if package.FILE is None:
            self.configuration = folder / "service.toml"
            (UNITS / NAME).write_text(install.unit_text(self.configuration))
            text += _OF_CHECKOUT.format(numba=os.environ["NUMBA_CACHE_DIR"])
        else:
            self.configuration = CONFIG
            if not package.is_installed():
                package.dpkg("-i")
            if not compiles:
                package.use_what_the_host_compiled()
            shutil.copy(folder / "service.toml", CONFIG)
        drop_in = UNITS / f"{NAME}.d" / "guest.conf"
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text(text)
        systemctl("daemon-reload")

    def __enter__(self) -> Self:
        systemctl("start", NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        subprocess.run(["systemctl", "stop", NAME], check=False)
        if self.configuration == CONFIG:
            CONFIG.unlink(missing_ok=True)  # with one, whoever installs the package starts it

    @property
    def pid(self) -> int:
        """Of its main process; 0 while there is none."""
        return int(self.shown("MainPID"))

    def shown(self, name: str) -> str:
        """Return what systemd knows of it by that name."""
        return systemctl("show", "--value", "--property", name, NAME)

    def complaints(self) -> str:
        """Return what it has written to its standard error."""
        return self._complaints.read_text()

    def ctl(self, order: str, nid: int | None = None) -> dict[str, Any]:
        """Give an order and return the answer, as ``gpuscan ctl`` does, without another Python."""
        return ask(SOCKET, order, nid)

    def policies(self) -> dict[str, dict[str, Any]]:
        """Return the status of each policy, by name."""
        return {one["name"]: one for one in self.ctl("status")["policies"]}

    def hang_up(self) -> None:
        """Have it read its configuration again, as ``systemctl reload`` does."""
        systemctl("reload", NAME)

    def kill(self) -> None:
        """Kill it with SIGKILL; systemd starts it again."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.pid != pid, "it is dead", 60)

    def until_ready(self) -> None:
        """Wait until it says that it runs."""

        def is_ready() -> bool:
            assert self.shown("ActiveState") != "failed", self.complaints()
            return self.shown("ActiveState") == "active" and bool(self.pid)

        eventually(is_ready, "it says that it runs", _LONGEST_START_S)

    def stop(self) -> None:
        """End it in order, and check that it ended so."""
        systemctl("stop", NAME)
        result = (self.shown("Result"), self.shown("ExecMainStatus"))
        assert result == ("success", "0"), (result, self.complaints())


def systemctl(*words: str) -> str:
    """Have systemd do something, and return what it says."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()
