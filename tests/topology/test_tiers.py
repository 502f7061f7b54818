"""``--tier``: machines whose slow memory is in the tier of their DRAM, and advice that can work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.node_tiers import parse_tiers
from gpuscan.cli import doctor
from gpuscan.cli.main import main
from gpuscan.compare.request import CompareRequest
from gpuscan.linux.targets import Targets
from gpuscan.live.request import LiveRequest
from gpuscan.live.session import LiveSession
from gpuscan.run.job import read_job
from gpuscan.run.kept import KeptRequest, kept_request
from gpuscan.run.request import RunRequest
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology.contract import Host
from gpuscan.topology.model import Topology
from gpuscan.topology.sysfs import read_host
from gpuscan.topology.tiers import has_lower_tier, lower_tier_remedy, tier_options, with_tiers
from gpuscan.topology.toml import parse_toml, to_toml
from machine_trees import write_tree, zoned
from machines import tiered


def flat() -> Topology:
    """Return a machine whose CXL nodes are in the tier of its DRAM, as some kernels have them."""
    machine = tiered()
    return replace(machine, nodes=tuple(replace(node, tier=0) for node in machine.nodes))


def test_several_nodes_of_one_tier_get_advice_that_works() -> None:
    machine = flat()
    assert not has_lower_tier(machine)
    assert tier_options(machine) == "--tier 2=1 --tier 3=1"
    mended = with_tiers(machine, parse_tiers(["2=1", "3=1"]))
    assert has_lower_tier(mended)
    assert mended.promotion_target(2) == 0
    assert "--split-cxl" not in lower_tier_remedy(machine, is_captured=True)


def test_a_machine_without_any_such_node_is_told_neither() -> None:
    machine = flat()
    with_cpus = replace(machine, nodes=tuple(replace(node, cpus=(node.nid,)) for node in machine.nodes))
    assert tier_options(with_cpus) == ""
    assert not has_lower_tier(with_tiers(with_cpus, {2: 1, 3: 1}))  # a tier with CPUs is a top tier
    assert "--tier" not in lower_tier_remedy(with_cpus, is_captured=True)
    nobody = replace(machine, nodes=tuple(replace(node, cpus=()) for node in machine.nodes))
    assert has_lower_tier(
        with_tiers(nobody, parse_tiers(tier_options(nobody).replace("--tier ", "").split()))
    )


def test_one_captured_node_is_told_to_split() -> None:
    whole = tiered()
    host = replace(whole, nodes=whole.nodes[:1], distance=whole.distance[:1, :1])
    assert "--split-cxl 50%" in lower_tier_remedy(host, is_captured=True)
    assert "--split-cxl" not in lower_tier_remedy(host, is_captured=False)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["2"], "--tier 2: that is not NID=TIER"),
        (["a=1"], "--tier a=1: that is not"),
        (["2=-1"], "that is not NID=TIER"),
        (["2=1", "2=0"], "node 2 is put into tier 1 too"),
    ],
)
def test_what_is_no_tier_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_tiers(texts)


@pytest.mark.parametrize(
    ("tiers", "said"), [({9: 1}, "has no node 9"), ({2: 99_999}, "tier 99999 of node 2 is none")]
)
def test_nodes_and_tiers_that_are_not_there(tiers: dict[int, int], said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        with_tiers(flat(), tiers)


def snapshot_of(machine: Topology) -> Snapshot:
    """Return a captured machine: on each node a page of a program, REFERENCED and ACTIVE."""
    page_map = machine.page_map
    flags = np.zeros(page_map.n_pages, dtype=np.uint64)
    flags[::1000] = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 12
    counts = np.zeros(page_map.n_pages, dtype=np.uint32)
    return Snapshot(machine, flags, counts, "6.12.0", 250, False, "2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flat") / "flat.zarr"
    snapshot_of(flat()).write(path)
    return path


def test_scan_and_run_of_a_snapshot(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(captured), "--device", "cpu"]) == 0
    assert "give --tier 2=1 --tier 3=1 to declare" in capsys.readouterr().out
    tiers = ["--tier", "2=1", "--tier", "3=1"]
    assert main(["scan", str(captured), *tiers, "--device", "cpu", "--json"]) == 0
    routes = json.loads(capsys.readouterr().out)["routes"]
    assert {(route["source_nid"], route["target_nid"]) for route in routes} == {(2, 0), (3, 1)}
    run = ["run", "cxl-promote", "--machine", str(captured), "--device", "cpu", "--ticks", "2", "--quiet"]
    assert main(run) == 2
    assert "give --tier 2=1 --tier 3=1 to declare" in capsys.readouterr().err
    assert main([*run, *tiers]) == 0


def test_what_goes_on_from_a_checkpoint_has_the_tiers(captured: Path) -> None:
    job = read_job(RunRequest(machine=captured, tiers=("2=1", "3=1")))
    kept = KeptRequest.of(json.loads(json.dumps(kept_request(job, "0").document())))
    again = kept.job(RunRequest())
    assert again.snapshot is not None
    assert [node.tier for node in again.topology.nodes] == [0, 0, 1, 1]
    assert [node.tier for node in again.snapshot.topology.nodes] == [0, 0, 1, 1]


def test_a_trace_on_a_machine_of_one_tier(tmp_path: Path) -> None:
    path = tmp_path / "flat.toml"
    path.write_text(to_toml(flat()))
    assert CompareRequest(tiers=("2=1",)).run_request().tiers == ("2=1",)
    job = read_job(RunRequest(workload="cxl-promote", topology=str(path), tiers=("2=1",)))
    assert [node.tier for node in job.topology.nodes] == [0, 0, 1, 0]
    assert (
        read_job(RunRequest(workload="cxl-promote", machine=path, tiers=("2=1",))).topology.node(2).tier == 1
    )


def test_doctor_says_that_nothing_will_be_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuscan.topology.resolve.resolve_machine", lambda source: Host(flat(), ()))
    (check,) = doctor._tiers({})
    assert check.found.startswith("all your nodes are in one tier: nothing will be promoted")
    assert check.remedy.startswith("give --tier 2=1 --tier 3=1")
    (mended,) = doctor._tiers({2: 1, 3: 1})
    assert mended.remedy == ""
    assert "node 2: tier 1" in mended.found


def test_topology_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flat.toml"
    path.write_text(to_toml(flat()))
    assert main(["topology", str(path), "--tier", "2=1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [node["tier"] for node in document["nodes"]] == [0, 0, 1, 0]
    assert document["nodes"][2]["promotion_target"] == 0


def test_live_refuses_with_advice_and_takes_it(tmp_path: Path) -> None:
    """Only the choice of the machine and the targets: no process is looked at."""
    nodes = {0: ("0", 32_768), 1: ("1", 32_768), 2: ("", 32_768)}
    files = zoned(nodes, {0: "10 20 20", 1: "20 10 20", 2: "20 20 10"})
    files["sys/devices/virtual/memory_tiering/memory_tier4/nodelist"] = "0-2\n"
    root = write_tree(tmp_path, files)

    class There:
        def read_host(self) -> Host:
            return read_host(root)

    def checked(request: LiveRequest) -> LiveSession:
        session = object.__new__(LiveSession)
        session.request, session.notes, session._system = request, [], There()  # type: ignore[assignment]
        session.topology, _ = session._machine()
        session.targets = Targets(session.topology, request.to_nid)
        session._check_targets()
        return session

    with pytest.raises(InputError, match=r"give --to NID .* or --tier 2=1 to declare"):
        checked(LiveRequest())
    assert checked(LiveRequest(tiers=("2=1",))).targets.promotion == {2: 0}


def test_a_file_made_of_the_host_has_its_own_name(tmp_path: Path) -> None:
    machine = read_host(write_tree(tmp_path, zoned({0: ("0-1", 32_768)}, {0: "10"}))).topology
    assert machine.name == "host"
    text = to_toml(machine)
    assert 'name = "host"' not in text
    assert parse_toml(text, "box.toml", "box").name == "box"
    assert parse_toml('name = "host"\n' + text, "box.toml", "box").name == "box"  # of an earlier version
