"""benchmarks/gpu_accept.py on the emulator at toy size: a GPU is to find nothing new in it."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_compiler import ARCHITECTURES, cubin_of, instructions, missing
from emulated import EmulatedDevice
from gpuscan.kernels.api import Budget, RawPlan, ScanRequest
from gpuscan.kernels.cuda import CudaKernels
from gpuscan.kernels.cuda.device import Device
from gpuscan.kernels.cuda.own_kernels import header
from gpuscan.kernels.cuda.source import source_hash
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.records.formats import FORMATS, STORE_FORMATS
from processes import has_ended

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_accept  # noqa: E402 - benchmarks/ is no package
from accept import figures, micro, parts, record, tables, tools  # noqa: E402 - see above
from accept.beds import LIES, drain, fill, layout_of  # noqa: E402 - see above
from accept.record import Record, run_parts  # noqa: E402 - see above
from accept.rig import CupyRig, own_source, timed_backend  # noqa: E402 - see above

TOY = parts.Scale(
    name="toy",
    formats=("rfc", "pghot-compact"),
    reference_pages=1 << 16,
    reference_items=80,
    twin_pages=3 << 15,
    twin_items=1500,
    sizes=(1 << 17,),
    size_items=2000,
    filled_pages=(1 << 16,),
    filled_densities=(1e-3, 1.0),
    ceiling_bytes=1 << 16,
    chain_rounds=3,
    scan_pages=1 << 16,
    densities=(1e-3, 1.0),
    n_targets=(16,),
    skewed_densities=(1e-2,),
    budget_densities=(1e-2,),
    budget_targets=(16, 1024),
    by_index_densities=(1e-3,),
    n_requests=2000,
    sparse_densities=(1e-4,),
    plan_densities=(0.1,),
    large_pages=1 << 16,
    largest_pages=1 << 16,
    rounds=1,
    limits_s=dict.fromkeys(parts.PARTS, 600.0),  # a busy machine is no fault of theirs
)


class EmulatedRig:
    """The emulator's device, NumPy's arrays, and the host's clock."""

    name = "emulated"
    xp: Any = np
    device: Device

    def __init__(self) -> None:
        self.device = EmulatedDevice(seed=4)
        self.n_trimmed = 0
        self.n_spun = 0

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

    def spin(self) -> None:
        self.n_spun += 1

    def trim(self) -> None:
        self.n_trimmed += 1

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        def captured() -> None:
            run()

        return captured

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
    assert rig.n_trimmed == len(parts.PARTS), "a child process finds no memory"
    checks = document["parts"]["correctness"]["results"]
    assert len(checks) == 2 * (4 + 2 + 1) + 2 + 1 + 1 + 2 * 2
    (by_index, marked) = (
        [check for check in checks if check["case"].endswith(what)]
        for what in ("pinned memory", "on the device")
    )
    assert [check["twin"] for check in by_index] == ["reference", "cpu"]
    assert not any("dense" in compared for check in by_index for compared in check["compared"])
    assert marked[0]["compared"]["words of a plan that stays"] == 2
    assert all(check["complete"] for check in checks)
    assert [row["tool"] for row in document["parts"]["sanitizers"]["results"]] == list(tools.SANITIZERS)
    assert "nothing here is a measurement" in text
    for heading in (*parts.PARTS, "bars"):
        assert f"## {heading}\n" in text
    (elsewhere,) = document["parts"]["residency"]["results"]
    assert [row["name"] for row in elsewhere["results"]] == ["indexed", "indexed, records in pinned memory"]
    found = {name: document["parts"][name]["results"] for name in ("formats", "skew", "budgets")}
    assert [(case["format"], case["density"]) for case in found["formats"]] == [
        ("pghot-compact", density) for density in TOY.densities
    ]
    lies = [(case["format"], case["lie"], case["n_ready"]) for case in found["skew"]]
    assert [lie[:2] for lie in lies] == [(name, lie) for name in TOY.formats for lie in LIES]
    assert [n_ready for _, lie, n_ready in lies if lie == "hot"] == [655, 655]  # drawn are the others
    assert [case["n_targets"] for case in found["budgets"]] == [16, 1024]
    for case in found["budgets"]:
        assert [row["name"] for row in case["results"]] == ["read", "all fits", "half of it"]
    assert "| indexed, hot / uniform, rfc, 0.01 | <= 1.3x |" in text
    assert rig.n_spun > 100


def test_a_wrong_word_is_found_and_the_rest_goes_on(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(kernels: CudaKernels, request: ScanRequest) -> RawPlan:
        plan = right(kernels, request)
        if request.cuts is None and request.path == "auto" and len(plan.words):
            plan.words[-1] ^= 1
        return plan

    def scan_there(kernels: CudaKernels, request: ScanRequest) -> DevicePlan:
        plan = right_there(kernels, request)
        plan.words[-1] ^= 1
        return plan

    right, right_there = CudaKernels.scan, CudaKernels.scan_on_device
    monkeypatch.setattr(CudaKernels, "scan", scan)
    monkeypatch.setattr(CudaKernels, "scan_on_device", scan_there)
    scale = replace(TOY, formats=("rfc",), filled_densities=(), sizes=())
    status, document, text = run(tmp_path, rig, scale, "correctness", "requests")
    assert (status, document["correct"]) == (1, False)
    *checks, there = document["parts"]["correctness"]["results"]
    assert "words of a plan that stays differs at 1 of" in there["error"]
    assert all("plan, auto: words differs at" in check["error"] for check in checks)
    assert [document["parts"][name]["status"] for name in ("correctness", "requests")] == ["failed", "done"]
    assert "| all checks and answers right | **no** |" in text


def test_a_path_that_loses_pages_is_no_figure(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fill
    monkeypatch.setattr(figures, "fill", lambda *args: right(*args) + 1)
    status, document, _ = run(tmp_path, rig, TOY, "scans", "large")
    assert status == 1
    for name in ("scans", "large"):
        results = document["parts"][name]["results"]
        assert all("WrongAnswerError" in result["error"] and result["wrong"] for result in results)


def test_a_peer_with_another_plan_is_no_figure(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    select = rig.cub_select
    monkeypatch.setattr(rig, "cub_select", lambda fmt: lambda records: select(fmt)(records[::-1]))
    results = list(parts.scans(rig, replace(TOY, densities=(1e-3,)), parts.Deadline(60)))
    assert [
        "CUB select + radix sort gives another plan" in result.get("error", "") for result in results
    ] == [
        True,
        False,  # exclusive: peers do not run
    ]


def test_too_small_a_device_is_told_and_is_no_wrong_answer(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.device, "free_bytes", lambda: 100_000)
    status, document, text = run(tmp_path, rig, TOY, "correctness", "scans", "large")
    assert (status, document["correct"]) == (0, True)
    results = document["parts"]["correctness"]["results"]
    assert all("on the device, 97.7 KiB are free" in result["left_out"] for result in results)
    assert document["parts"]["scans"]["status"] == "failed"
    assert "DeviceError" in text
    assert document["parts"]["large"]["results"] == []


def test_a_killed_run_keeps_what_it_has(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        yield {"case": "first", "left_out": "a test"}
        raise KeyboardInterrupt

    monkeypatch.setitem(parts.PARTS, "large", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, rig, TOY, "ceilings", "large", "ncu")
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["correct"] is True  # of what was through
    assert document["parts"]["ceilings"]["results"][0]["buffer_bytes"] == TOY.ceiling_bytes
    assert document["parts"]["large"] == {
        "status": "running",
        "results": [{"case": "first", "left_out": "a test"}],
    }
    assert "- first: a test" in (tmp_path / "gpu.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_begun_when_the_time_is_over(rig: EmulatedRig, tmp_path: Path) -> None:
    scale = replace(TOY, limits_s=dict.fromkeys(parts.PARTS, 0.0))
    status, document, _ = run(tmp_path, rig, scale, "correctness", "ceilings", "scans", "requests", "large")
    assert status == 0
    for part in document["parts"].values():
        assert all(result["left_out"] == "no time was left" for result in part["results"])


def test_limits_of_a_call_leave_it_below_eight_minutes() -> None:
    assert sorted(name for call in parts.CALLS for name in call) == sorted(parts.PARTS)
    for scale in (parts.FULL, parts.QUICK):
        assert set(scale.limits_s) == set(parts.PARTS)
        for call in parts.CALLS:
            assert sum(scale.limits_s[name] for name in call) <= 8 * 60 - 30
    assert sum(parts.QUICK.limits_s.values()) <= 8 * 60 - 30  # all in one call


def test_a_call_has_its_time_whatever_came_before(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[str, float] = {}

    def part(name: str) -> Callable[..., Any]:
        def run(rig: Any, scale: Any, deadline: parts.Deadline) -> Any:
            left[name] = deadline.left_s()
            time.sleep(0.2)
            yield {"case": name, "left_out": "a test"}

        return run

    monkeypatch.setattr(record, "CALL_S", 0.3)
    for name in ("correctness", "sanitizers", "ncu"):
        monkeypatch.setitem(parts.PARTS, name, part(name))
    run(tmp_path, rig, TOY, "correctness", "sanitizers", "ncu")
    assert left["correctness"] > 0.2 < left["sanitizers"]
    assert left["ncu"] < 0.2


def test_what_outlasts_its_call_is_given_up_with_what_it_has(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: Any) -> Any:
        yield {"case": "first", "left_out": "a test"}
        yield parts._tried("second", lambda: time.sleep(30))  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(record, "CALL_S", 0.1)
    monkeypatch.setattr(record, "_LAST_S", 0.1)
    monkeypatch.setitem(parts.PARTS, "sanitizers", endless)
    before = signal.getsignal(signal.SIGALRM), time.monotonic()
    status, document, text = run(tmp_path, rig, TOY, "sanitizers", "ncu")
    assert time.monotonic() - before[1] < 20
    assert signal.getsignal(signal.SIGALRM) == before[0]
    assert (status, document["correct"]) == (1, None)
    results = document["parts"]["sanitizers"]["results"]
    assert [result["case"] for result in results] == ["first", "sanitizers"]
    assert "- sanitizers: given up in the middle: the call's time was over" in text
    assert document["parts"]["ncu"]["status"] == "done"


def test_what_hears_of_no_signal_is_ended_with_what_it_has(
    rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def deaf(*_: Any) -> Any:
        yield {"case": "first", "left_out": "a test"}
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as if in the driver
        assert ended.wait(30)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    monkeypatch.setattr(record, "CALL_S", 0.1)
    monkeypatch.setattr(record, "_LAST_S", 0.1)
    monkeypatch.setattr(record, "_end", ended.set)
    monkeypatch.setitem(parts.PARTS, "correctness", deaf)
    written: list[Any] = []
    monkeypatch.setattr(record.Record, "flush", lambda self: written.append(copy.deepcopy(self.document)))
    record.run_parts(record.Record(tmp_path, rig, TOY), rig, TOY, ["correctness"])
    said = [each for each in written if "correctness" in each["parts"]]
    last = next(each for each in said if "error" in each["parts"]["correctness"])
    assert "did not end" in last["parts"]["correctness"]["error"]
    assert last["correct"] is False
    assert last["parts"]["correctness"]["results"][0]["case"] == "first"


def test_a_budget_that_is_overspent_is_no_figure(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "Budget", lambda limits, *rest: Budget(limits + 1, *rest))
    (few, many) = parts.budgets(rig, TOY, parts.Deadline(60))
    assert "a budget, half of it, claimed" in few["error"]
    assert few["wrong"]
    assert many["wrong"]


@pytest.mark.slow  # a compilation of its own
def test_a_chain_that_ends_early_is_no_figure(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = own_source
    chain = "round < n_rounds; ++round) expected"
    shorter = f"round + 1 < {chain.partition('< ')[2]}"
    monkeypatch.setattr(micro, "own_source", lambda *args: right(*args).replace(chain, shorter))
    with pytest.raises(figures.WrongAnswerError, match="walked to its end"):
        list(parts.micro_part(rig, TOY, parts.Deadline(60)))


@pytest.mark.slow  # a compilation of its own
def test_a_word_that_is_not_exchanged_is_no_figure(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = own_source
    second = "  exchange((uint2*)words + 1, expected, desired);\n"
    monkeypatch.setattr(micro, "own_source", lambda *args: right(*args).replace(second, ""))
    with pytest.raises(figures.WrongAnswerError, match="not all exchanged"):
        list(parts.micro_part(rig, TOY, parts.Deadline(60)))


def test_modelled_figures_stand_beside_those_of_a_gpu_that_is_known(
    rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig, "facts", lambda: {"device": "NVIDIA H200"})
    (micros,) = parts.micro_part(rig, TOY, parts.Deadline(60))
    modelled = {row["name"]: row.get("modelled_ns") for row in micros["results"]}
    assert modelled["compare-exchange, one warp"] == pytest.approx(TOY.chain_rounds * 273 / 1.98, rel=0.1)
    assert modelled["a block's warps in turns, 4 loads at once"] > 0
    by_width = [
        modelled[f"neighbouring records of 4 bytes, {width} bytes an exchange"] for width in (4, 8, 16)
    ]
    assert by_width[0] == 2 * by_width[1] == 4 * by_width[2] > 0
    scale = replace(TOY, formats=("rfc",), budget_targets=(16,))
    for results, expected in (
        (parts.skew(rig, scale, parts.Deadline(60)), {"uniform": 2, "hot": 2, "half hot": 0}),
        (parts.budgets(rig, scale, parts.Deadline(60)), {"uniform": 1}),
    ):
        found = {case["lie"]: sum("modelled_ns" in row for row in case["results"]) for case in results}
        assert found == expected


def test_what_a_graph_would_save_and_what_overlaps(rig: EmulatedRig) -> None:
    (sparse,) = parts.launches(rig, TOY, parts.Deadline(60))
    assert sparse["n_launches"] == 4  # popcounts, cut_stretches, scan, scatter
    times = {way: {"median_ns": ns} for way, ns in (("scan", 300e3), ("launches", 200e3), ("graph", 20e3))}
    (row,) = tables._launches([{**sparse, "wall": times, "graph_speedup": 300 / 120}])[2:3]
    assert row.endswith("| 300 us | 200 us | 20 us | 2.5x | yes |")
    (full,) = parts.overlap(rig, TOY, parts.Deadline(60))
    assert full["n_plans"] >= 8
    assert full["plan_bytes"] == 12 * full["n_ready"] > 0


def test_a_graph_that_claims_nothing_is_no_figure(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "capture", lambda run: lambda: None)
    (row,) = parts.launches(rig, TOY, parts.Deadline(60))
    assert "graph claimed less" in row["error"]
    assert row["wrong"]


def test_kernels_are_timed(rig: EmulatedRig) -> None:
    backend, device = timed_backend(rig)
    kernels = backend.open(layout_of(1 << 16, "rfc", 4))
    n_ready = fill(rig, kernels, 0.01, seed=3)
    assert 0.008 < n_ready / (1 << 16) < 0.012
    assert kernels.count_index() == (n_ready, (1 << 16) // 512)
    started = time.perf_counter_ns()
    with device.watched() as laps:
        drain(kernels, "dense", n_ready)
    wall_ns = time.perf_counter_ns() - started
    assert {"popcounts", "cut_stretches", "scan_dense", "scatter"} <= set(laps.by_kernel)
    assert 0 < laps.kernel_ns <= laps.span_ns <= wall_ns
    drain(kernels, "dense", n_ready)
    assert laps.by_kernel.keys() == {"popcounts", "cut_stretches", "scan_dense", "scatter"}
    assert rig.n_spun == 0
    with device.watched(spins=True) as laps:
        drain(kernels, "dense", n_ready)
    assert rig.n_spun == 4, "one ahead of each kernel"


SANITIZER = """#!/bin/sh
[ "$1 $3" = "--tool --error-exitcode" ] || exit 9
[ "$2" = "racecheck" ] && echo "========= ERROR SUMMARY: 3 errors" && exit "$4"
[ "$2" = "synccheck" ] && exit 1
[ "$2" = "initcheck" ] && { sleep 30 & echo $! > "$0.child"; wait; }
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_what_compute_sanitizer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    mem, race, init, sync = tools.sanitizers(lambda: 4.0)
    assert mem == {
        "tool": "memcheck",
        "summary": "ERROR SUMMARY: 0 errors",
        "exit_status": 0,
        "complete": True,
    }
    assert (race["error"], race["summary"]) == ("racecheck found something", "ERROR SUMMARY: 3 errors")
    assert init["left_out"] == "not through after 2 s"
    child = int(program.with_name(f"{program.name}.child").read_text())
    assert has_ended(child), "the checked process goes on"
    assert sync["error"] == "the checked process ended with 1"


def test_what_ncu_counts() -> None:
    output = (
        "==PROF== Connected\n"
        '"ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum.per_second"\n'
        '"","","ns","byte/second"\n'
        '"0","scan_dense","351,200","3000000000000"\n'
        '"1","scatter","n/a","1"\n'
    )
    assert tools.launches_of(output) == [
        {"kernel": "scan_dense", "time": 351200.0, "dram_bytes_per_s": 3e12},
        {"kernel": "scatter", "time": None, "dram_bytes_per_s": 1.0},
    ]
    assert tools.launches_of("==ERROR== ERR_NVGPUCTRPERM") == []


def test_the_command(rig: EmulatedRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)

    def opened(*, pooled: bool, asked: list[bool] = pooled) -> EmulatedRig:
        asked.append(pooled)
        return rig

    monkeypatch.setattr(gpu_accept, "CupyRig", opened)
    monkeypatch.setattr(gpu_accept, "QUICK", TOY)
    monkeypatch.setattr(gpu_accept, "CHILD_PAGES", {"check": 1 << 16, "profile": 1 << 16})
    assert gpu_accept.main(["--quick", "--part", "ceilings", "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["ceilings"]
    monkeypatch.setenv("OUT", str(tmp_path / "there"))
    monkeypatch.setattr(gpu_accept, "CALLS", ((), ("ceilings", "micro")))
    assert gpu_accept.main(["--quick", "--call", "2"]) == 0
    assert list(json.loads((tmp_path / "there" / "gpu.json").read_text())["parts"]) == ["ceilings", "micro"]
    assert gpu_accept.main(["--child", "check"]) == 0
    assert gpu_accept.main(["--child", "profile"]) == 0
    assert pooled == [True, True, False, False]
    try:
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143


ONLY_NUMPY_AND_NUMBA = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "cupy typer rich pydantic zarr pyarrow polars duckdb".split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_without_a_gpu_and_with_only_numpy_and_numba(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONLY_NUMPY_AND_NUMBA, str(BENCHMARKS / "gpu_accept.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("gpu_accept: CuPy cannot be imported")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_everything_on_a_gpu(tmp_path: Path) -> None:
    status, document, _ = run(tmp_path, CupyRig(), replace(TOY, scan_pages=1 << 24), *parts.PARTS)
    assert status == 0, document
    assert [part["status"] for part in document["parts"].values()] == ["done"] * len(parts.PARTS)


@pytest.mark.skipif(missing() is not None, reason=f"{missing()}")
@pytest.mark.parametrize(
    ("architecture", "format_name"),
    [
        pytest.param(each, name, marks=() if (each, name) == (90, "rfc") else pytest.mark.slow)
        for each in ARCHITECTURES
        for name in STORE_FORMATS
    ],
)
def test_the_cuda_sources_compile(architecture: int, format_name: str) -> None:
    fmt = FORMATS[format_name]
    for name in ("bed", "micro", "spin"):
        cubin = cubin_of(own_source(fmt, name), f"accept-{name}-{format_name}", architecture)
        if name == "micro":
            exchanges = [line for line in instructions(cubin, "exchange_16_bytes") if "ATOM" in line]
            width = 128 if architecture >= 90 else 64
            assert exchanges
            assert all(f"CAS.{width}.STRONG.GPU" in line for line in exchanges)
    cubin_of(header(fmt) + own_source(fmt, "sampler", prelude=False), f"sampler-{format_name}", architecture)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed, which brings CUB's headers")
@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_the_peer_compiles(format_name: str, tmp_path: Path) -> None:
    source = tmp_path / "cub_select.cu"
    source.write_text(own_source(FORMATS[format_name], "cub_select"))
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-cubin", "-o", str(tmp_path / "out"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
