"""What tests need beyond the test extra: without it they are skipped, and fail in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuscan.base.installing import install_command

_BROWSER = "chromium"
_REQUIRED = "GPUSCAN_BROWSER_REQUIRED"


def package_or_skip(module: str, extra: str) -> None:
    """Skip where ``module``, of an extra of pyproject.toml, is not installed."""
    if importlib.util.find_spec(module) is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"needs {module}: {install_command(extra)}")


def browser_or_skip() -> str:
    """Return the path of a browser."""
    found = shutil.which(_BROWSER)
    if found is None:
        if os.environ.get(_REQUIRED):
            pytest.fail(f"{_REQUIRED} is set, and there is no {_BROWSER}")
        pytest.skip(f"needs {_BROWSER} (Debian's package of that name)")
    return found


def opened(browser: str, address: str, profile: Path, *more: str) -> tuple[str, list[str]]:
    """Return the document at ``address`` after 30 s of a page's time, and what the console said; ``more``
    are flags of the browser."""
    flags = [*more, "--headless", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # it refuses to start as root otherwise
    command = [browser, *flags, f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom"]
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
