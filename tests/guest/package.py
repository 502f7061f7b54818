"""The Debian package of a guest that has one, and dpkg: docs/guest.md."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FILE = os.environ.get("GPUSCAN_GUEST_PACKAGE")
"""None: the service is the checkout's."""
PROGRAM = Path("/usr/bin/gpuscan")
LIBRARY = Path("/usr/lib/gpuscan")
CACHE = Path("/var/cache/gpuscan")


def is_installed() -> bool:
    """Whether its program is there."""
    return PROGRAM.exists()


def dpkg(action: str) -> None:
    """Install it (``-i``, also over itself), remove it (``-r``) or purge it (``-P``)."""
    assert FILE is not None
    what = FILE if action == "-i" else "gpuscan"
    command = ["dpkg", "--log=/run/dpkg.log", "--force-unsafe-io", action, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def use_what_the_host_compiled() -> None:
    """Put its kernels where the unit finds them."""
    assert FILE is not None
    shutil.copytree(Path(FILE).with_name("compiled"), CACHE, dirs_exist_ok=True)
