"""A result of ``gpuscan run --out``, for the tests of what is made of one."""

from __future__ import annotations

from pathlib import Path

from gpuscan.cli.main import main
from workload_files import small

_WORKLOAD = small(12)


def small_result(folder: Path) -> Path:
    """Run 12 ticks on 1 GiB, which promote from node 2 alone; return the directory, beside small.toml."""
    (folder / "small.toml").write_text(_WORKLOAD, encoding="utf-8")
    command = ["run", str(folder / "small.toml"), "--device", "cpu", "--threads", "1", "--quiet"]
    assert main([*command, "--out", str(folder / "out")]) == 0
    return folder / "out"
