"""What a test asks before it uses a build: skipped on a user's machine without g++, a failure in CI."""

from __future__ import annotations

import os

import pytest

from emulator.loader import Build, unavailable


def need(build: Build) -> None:
    """Skip the calling test when ``build`` cannot be made here; fail it where the variable CI is true."""
    reason = unavailable(build)
    if reason is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"the CUDA kernels must be executed in CI, but {reason}")
    pytest.skip(reason)
