"""benchmarks/gpu_accept.py on the emulator at toy size: a GPU is to find nothing new in it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulated import EmulatedDevice
from gpuscan.kernels.cuda.source import source_hash

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from accept import parts, tools  # noqa: E402 - see above
from accept.record import Record, run_parts  # noqa: E402 - see above

TOY = parts.Scale(
    name="toy",
    formats=("rfc", "pghot-compact"),
    reference_pages=1 << 16,
    reference_items=150,
    twin_pages=1 << 17,
    twin_items=3000,
    sizes=(1 << 18,),
    size_items=5000,
    filled_pages=(1 << 17,),
    filled_densities=(1e-3, 1.0),
    ceiling_bytes=1 << 16,
    scan_pages=1 << 17,
    densities=(1e-3, 1.0),
    n_targets=(16,),
    n_requests=2000,
    large_pages=1 << 17,
    largest_pages=1 << 17,
    rounds=1,
    limits_s=dict.fromkeys(parts.PARTS, 60.0),
)


class EmulatedRig:
    """The emulator's device, NumPy's arrays, and the host's clock."""

    name = "emulated"
    xp: Any = np

    def __init__(self) -> None:
        self.device = EmulatedDevice(seed=4)

    def facts(self) -> dict[str, Any]:
        return {
            "device": "emulated",
            "describe": self.device.describe(),
            "driver": "none",
            "cupy": "none",
        }

    def mark(self) -> int:
        return time.perf_counter_ns()

    def elapsed_ns(self, begin: int, end: int) -> int:
        return end - begin

    def cub_select(self, fmt: Any) -> Any:
        def run(records: Any) -> Any:
            flats = np.flatnonzero(records & fmt.dtype.type(fmt.ready.mask)).astype(np.uint32)
            return ((records[flats] >> fmt.nid.shift) & fmt.nid.max).astype(np.uint16), flats

        return run


@pytest.fixture
def rig() -> EmulatedRig:
    return EmulatedRig()


def run(out: Path, rig: Any, scale: parts.Scale, *names: str) -> tuple[int, dict[str, Any], str]:
    """Return exit status, JSON and Markdown."""
    status = run_parts(Record(out, rig, scale), rig, scale, names or list(parts.PARTS))
    document = json.loads((out / "gpu.json").read_text())
    return status, document, (out / "gpu.md").read_text()


def test_everything_at_toy_size(rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    status, document, text = run(tmp_path / "out", rig, TOY)
    failures = [part for part in document["parts"].values() if part["status"] != "done"]
    assert failures == []
    assert (status, document["correct"]) == (0, True)
    assert document["kernel_sources"] == source_hash()
    checks = document["parts"]["correctness"]["results"]
    assert len(checks) == 2 * (4 + 2 + 1) + 1 + 2 * 2
    assert all(check["complete"] for check in checks)
    assert [row["tool"] for row in document["parts"]["sanitizers"]["results"]] == list(tools.SANITIZERS)
    assert "nothing here is a measurement" in text
    for heading in ("correctness", "ceilings", "scans", "requests", "large", "sanitizers", "ncu", "bars"):
        assert f"## {heading}\n" in text
