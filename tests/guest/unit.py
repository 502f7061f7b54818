"""The service as systemd runs it, by the unit file that is shipped; the guest's first process is systemd."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuscan.service.client import ask
from gpuscan.service.install import unit_text

from .processes import eventually

NAME = "gpuscan.service"
UNITS = Path("/run/systemd/system")
SOCKET = Path("/run/gpuscan/service.sock")
HISTORY = Path("/var/lib/gpuscan/history.sqlite")
DAMON_STATE = Path("/run/gpuscan/damon.json")
_LONGEST_START_S = 900.0
_PASSED = ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMPY_MADVISE_HUGEPAGE")
# Where the CPU is emulated a start takes longer than systemd waits, and the host has compiled what there is.
_DROP_IN = """[Service]
TimeoutStartSec={start_s:g}
Environment={environment}
ReadWritePaths={numba}
StandardError=append:{complaints}
"""


class Unit:
    """The service under systemd from the start of the ``with`` block to its end.

    Args:
        folder: where its configuration is, ``service.toml``; none that the unit hides, as /tmp is.
    """

    def __init__(self, folder: Path) -> None:
        self.configuration = folder / "service.toml"
        self._complaints = folder / "service.stderr"
        passed = [f"{name}={os.environ[name]}" for name in _PASSED if name in os.environ]
        drop_in = UNITS / f"{NAME}.d" / "guest.conf"
        drop_in.parent.mkdir(exist_ok=True)
        (UNITS / NAME).write_text(unit_text(self.configuration))
        drop_in.write_text(
            _DROP_IN.format(
                start_s=_LONGEST_START_S,
                environment=" ".join(f'"{each}"' for each in (*passed, "PYTHONDONTWRITEBYTECODE=1")),
                numba=os.environ["NUMBA_CACHE_DIR"],
                complaints=self._complaints,
            )
        )
        _systemctl("daemon-reload")

    def __enter__(self) -> Self:
        _systemctl("start", NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        subprocess.run(["systemctl", "stop", NAME], check=False)

    @property
    def pid(self) -> int:
        """Of its main process; 0 while there is none."""
        return int(self.shown("MainPID"))

    def shown(self, name: str) -> str:
        """Return what systemd knows of it by that name."""
        return _systemctl("show", "--value", "--property", name, NAME)

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
        _systemctl("reload", NAME)

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
        _systemctl("stop", NAME)
        result = (self.shown("Result"), self.shown("ExecMainStatus"))
        assert result == ("success", "0"), (result, self.complaints())


def _systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()
