"""What a comparison is asked for: machines of every kind, designs that do not apply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from gpuscan.cli.main import main
from gpuscan.compare.closed_loop import run_closed
from gpuscan.compare.cost_model import measured_steps
from gpuscan.compare.prepare import prepare
from gpuscan.compare.recording import record_accesses
from gpuscan.compare.request import CompareRequest
from gpuscan.compare.start import FrameFiles
from gpuscan.compare.stream import RecordedStream
from gpuscan.run.request import RunRequest
from gpuscan.workload.files import builtin_workloads
from hosts import HOST, small_host
from small_steps import cost_model, step_model


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captured") / "host.zarr"
    small_host().write(path)
    return path


@pytest.fixture
def measures_nothing() -> Iterator[None]:
    """Fail where something is measured or recorded."""
    broken = mock.Mock(side_effect=AssertionError("measured before the request was checked"))
    with (
        mock.patch("gpuscan.compare.cost_model.measure_model", broken),
        mock.patch("gpuscan.compare.suite.record_accesses", broken),
    ):
        yield


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["numa-rebalance", "--memory", "1GiB", "--designs", "gpuscan,hot-list"],
            "the design hot-list promotes from lower tiers only, and all memory of this machine is one",
        ),
        (
            ["--topology", "single"],
            "all memory of 'single' is on node 0, so no page could move; choose a mach",
        ),
        (
            ["--topology", "two-socket"],
            "is one tier, so workload cxl-interleave has nothing to promote; choose",
        ),
        (["--split-cxl", "50%"], "--split-cxl divides a captured machine; give one with --machine SNAPSHOT"),
        (["HOST", "--memory", "1GiB"], "has the memory it has; leave out --memory or --machine"),
        (["HOST"], "give --split-cxl 50% to declare the upper half of its PFNs CXL memory"),
        (["--machine", "nowhere.zarr"], "nowhere.zarr"),
        (["--machine", "nowhere"], "unknown topology 'nowhere'"),
        (
            ["--markdown", "--json"],
            "--markdown prints the table of a comparison; leave out --json and --grid",
        ),
        (
            ["--designs", "section-flag", "--set", "policy.freq_threshold=100"],
            "section-flag takes a policy.freq_threshold from",
        ),
    ],
)
@pytest.mark.usefixtures("measures_nothing")
def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    arguments: list[str], said: str, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *(str(host) if argument == "HOST" else argument for argument in arguments)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1]
    assert sum(line.startswith("gpuscan: error: ") for line in error) == 1


@pytest.mark.parametrize(
    ("asked", "memory"),
    [
        ({}, "16GiB"),
        ({"memory": "1TiB"}, "1TiB"),
        ({"workload": "cxl-promote"}, None),
        ({"topology": "host"}, None),
        ({"machine": Path("host.zarr")}, None),
        ({"overrides": ("topology.memory=1GiB",)}, None),
        ({"overrides": ("ticks=5",)}, "16GiB"),
    ],
)
def test_the_default_comparison_has_a_size_unless_one_is_asked_for(
    asked: dict[str, Any], memory: str | None
) -> None:
    assert CompareRequest(**asked).run_request().memory == memory


def test_of_all_designs_those_that_do_not_apply_are_left_out_with_the_reason() -> None:
    request = CompareRequest(workload="numa-rebalance", memory="1GiB")
    prepared = prepare(request)
    one_tier = "promotes from lower tiers only, and all memory of this machine is one tier"
    assert prepared.left_out == dict.fromkeys(("section-flag", "section-flag-next", "hot-list"), one_tier)
    assert "gpuscan" in prepared.names
    assert prepared.names == tuple(name for name in prepared.names if name not in prepared.left_out)
    assert prepared.facts["left_out"] == prepared.left_out
    tuned = prepare(CompareRequest(memory="1GiB", overrides=("policy.freq_threshold=100",)))
    assert tuned.left_out["section-flag"].startswith("takes a policy.freq_threshold from 1 to")
    assert "rfc-v1" in tuned.names


@pytest.mark.parametrize("name", [name for name, _ in builtin_workloads()])
def test_every_built_in_workload_is_compared_to_its_end_unless_somebody_cuts_it(name: str) -> None:
    prepared = prepare(CompareRequest(workload=name))
    assert prepared.settings.horizon_ns == prepared.workload.ticks * prepared.workload.tick
    assert prepared.settings.horizon_ns >= 10_000_000_000
    assert prepared.notes == ()


def test_a_cut_says_what_time_it_covers() -> None:
    prepared = prepare(CompareRequest(memory="1GiB", n_accesses=100_000))
    assert prepared.notes == ("--accesses cuts it to 3.2 s of 10 s",)
    assert prepared.settings.horizon_ns == 3_200_000_000


def test_one_description_of_the_machine_for_a_run_and_a_comparison() -> None:
    request = CompareRequest(machine=HOST, split_cxl="50%")
    assert request.run_request() == RunRequest(workload="cxl-interleave", machine=HOST, split_cxl="50%")
    # Earlier, a topology was given as --machine.
    assert CompareRequest(machine=Path("two-socket")).run_request().topology == "two-socket"
    named = CompareRequest(machine=Path("a.zarr"), topology="b").run_request()
    assert (named.machine, named.topology) == (Path("a.zarr"), "b")


def test_every_machine_of_a_comparison_begins_as_the_captured_one(host: Path, tmp_path: Path) -> None:
    prepared = prepare(CompareRequest(workload=str(host), split_cxl="50%", ticks=3))
    assert prepared.captured is not None
    frames = FrameFiles.write(prepared.captured, tmp_path)
    read = frames.read()
    for name in ("flags", "order", "hot"):
        np.testing.assert_array_equal(getattr(read, name), getattr(prepared.captured, name))
    chosen = replace(prepared.settings, frames=frames)
    recording = record_accesses(
        chosen.topology, chosen.spec, chosen.horizon_ns, tmp_path, frames=chosen.frames
    )
    stream = RecordedStream(chosen.topology, chosen.spec, recording, frames)
    machine = stream.open().machine
    is_head = prepared.captured.flags & 1 != 0
    assert np.count_nonzero(machine.space.folio_of >= 0) >= np.count_nonzero(is_head)
    assert [process.spec.name for process in machine.processes] == ["captured"]
    for design in ("rfc-fixed", "gpuscan"):
        assert run_closed(design, chosen, stream).accesses_digest == stream.digest


def test_a_captured_machine_is_compared_and_a_walk_of_its_memory_is_told(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [step_model(step.name, step.terms, 0.0, *[5.0] * len(step.terms)) for step in measured_steps()]
    arguments = ["compare", str(host), "--split-cxl", "50%", "--designs", "rfc-fixed,gpuscan", "--ticks", "3"]
    with mock.patch("gpuscan.compare.cost_model.measure_model", return_value=cost_model(*models)):
        assert main([*arguments, "--no-side-costs", "--jobs", "1", "--quiet", "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("## cxl-promote: ")
    assert "| open loop | gpuscan | rfc-fixed |" in shown
    (walk,) = re.findall(r"- here a walk of your memory, (.*) GiB, would take (.*) ms \(rfc-fixed\)", shown)
    n_pages = float(walk[0]) * (1 << 18)
    assert float(walk[1]) == pytest.approx(5.0 * n_pages * 1e-6, rel=0.01)


def test_jobs_beyond_the_loops_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch("gpuscan.cli.compare._run"):
        assert main(["compare", "--designs", "rfc-v1,gpuscan", "--jobs", "64"]) == 0
    assert "--jobs 64: there are 3 loops that may run at once, and no more do" in capsys.readouterr().err
