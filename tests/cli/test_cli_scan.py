"""``gpuscan scan``: from a captured machine to batches, and what it says when there are none."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from gpuscan.cli.main import main
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.store.plan_file import read_plans
from hosts import small_host


@pytest.fixture(scope="module")
def host():
    return small_host()


@pytest.fixture(scope="module")
def path(host, tmp_path_factory):
    path = tmp_path_factory.mktemp("host") / "host.zarr"
    host.write(path)
    return str(path)


def hot_heads(snapshot):
    """Return PFNs and sizes of the hot folios of node 1, by a mask over all pages."""
    frames = snapshot.frames()
    on_cxl = snapshot.topology.page_map.nid_of_flat(np.arange(len(snapshot.flags))) == 1
    flats = np.flatnonzero(frames.hot & on_cxl)
    return snapshot.topology.page_map.pfn_of_flat(flats), 1 << frames.order[flats].astype(np.int64)


def report(capsys, *arguments):
    assert main(["scan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [(), ("--path", "dense"), ("--format", "pghot", "--batch-pages", "100")]
)
def test_every_hot_folio_of_the_cxl_node_is_planned_once(host, path, tmp_path, capsys, arguments):
    out = tmp_path / "out"
    found = report(capsys, path, "--split-cxl", "50%", "--device", "cpu", "--out", str(out), *arguments)
    pfns, n_pages = hot_heads(host.split_cxl(0.5))
    assert len(pfns) > 1000
    batch_pages = found["batch_pages"]
    assert found["recorded"] == {"accepted": len(pfns)}
    assert found["routes"] == [
        {"source_nid": 1, "target_nid": 0, "folios": len(pfns), "pages": int(n_pages.sum())}
    ]
    (target,) = found["targets"]
    assert target["fill"] == pytest.approx(n_pages.sum() / (target["batches"] * batch_pages))
    assert target["batches"] >= n_pages.sum() / batch_pages
    if "dense" in arguments:
        assert found["scan"]["path"] == "dense"
        assert found["scan"]["examined_pages"] >= host.topology.page_map.n_present_pages

    rows = read_plans(out / "plan.parquet")
    assert rows["pfn"].to_pylist() == pfns.tolist()
    assert rows["n_pages"].to_pylist() == n_pages.tolist()
    assert set(rows["target_nid"].to_pylist()) == {0}
    assert rows["batch"].to_pylist()[-1] == target["batches"] - 1
    assert json.loads((out / "scan.json").read_text()) == found


def test_a_scan_with_its_records_on_a_disk_plans_the_same(path, tmp_path, capsys):
    arguments = (path, "--split-cxl", "50%", "--device", "cpu")
    here = report(capsys, *arguments)
    there = report(capsys, *arguments, "--residency", "index", "--records-dir", str(tmp_path))
    for part in ("recorded", "routes", "targets"):
        assert there[part] == here[part]
    assert (there["scan"]["path"], there["scan"]["why"].partition(",")[0]) == (
        "indexed",
        "the records are elsewhere",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_nodes_batches_and_the_rule(path, capsys):
    assert main(["scan", path, "--split-cxl", "50%", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "from node" in shown
    assert "Node 0 gets" in shown
    assert "hot = REFERENCED or ACTIVE" in shown


def test_one_node_has_nothing_to_promote(path, capsys):
    assert main(["scan", path, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "nothing to promote; give --split-cxl 50%" in shown
    assert report(capsys, path, "--device", "cpu")["routes"] == []


def test_with_the_multi_generation_lru_only_referenced_is_hot(host, tmp_path, capsys):
    import dataclasses

    path = tmp_path / "mglru.zarr"
    dataclasses.replace(host, lru_gen=True).write(path)
    found = report(capsys, str(path), "--split-cxl", "50%", "--device", "cpu")
    assert "ACTIVE says little" in found["hot_rule"]
    pfns, _ = hot_heads(Snapshot.read(path).split_cxl(0.5))
    assert found["routes"][0]["folios"] == len(pfns) < len(hot_heads(host.split_cxl(0.5))[0])


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--split-cxl", "half"], "'half' is not a share", 2),
        (["--split-cxl", "100%"], "cannot be split off", 2),
        (["--target", "7"], "has no node 7", 2),
        (["--format", "pgtepid"], "unknown record format 'pgtepid'", 2),
        (["--format", "rfc-page-ext"], "imported and exported only", 2),
        (["--path", "sideways"], "unknown --path 'sideways'", 2),
        (["--device", "abacus"], "unknown device 'abacus'", 2),
        (["--device", "cuda"], "use --device cpu", 3),
        (["--residency", "index"], "say in which directory", 2),
        (["--residency", "index", "--path", "dense"], "a dense scan reads every record", 2),
        (["--records-dir", "here"], "not on the device; give --residency index too", 2),
        (["--residency", "index", "--records-dir", "/nowhere"], "can be kept in /nowhere: No such file", 2),
        (["--residency", "index", "--device", "reference"], "keeps all of a store on its device", 2),
        (["--batch-pages", "0"], "batch-pages", 2),
        (["--batch-pages", "1048577"], "batch-pages", 2),
    ],
)
def test_wrong_usage_is_one_sentence(path, tmp_path, capsys, arguments, says, code):
    if arguments[0] != "--split-cxl":
        arguments = ["--split-cxl", "50%", *arguments]
    if "cuda" not in arguments and "--device" not in arguments:
        arguments = ["--device", "cpu", *arguments]
    out = tmp_path / "out"
    assert main(["scan", path, "--out", str(out), *arguments]) == code
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_is_not_there(tmp_path, capsys):
    assert main(["scan", str(tmp_path / "none.zarr")]) == 2
    assert "is not there; make one with 'gpuscan capture'" in capsys.readouterr().err


def test_a_directory_of_somebody_else_is_left_alone(path, tmp_path, capsys):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/anna").write_text("dear")
    arguments = ["--split-cxl", "50%", "--device", "cpu", "--out", str(tmp_path / "letters")]
    assert main(["scan", path, *arguments]) == 2
    assert [entry.name for entry in (tmp_path / "letters").iterdir()] == ["anna"]


def test_what_is_on_the_target_already_is_said(path, capsys):
    arguments = ["--split-cxl", "50%", "--device", "cpu", "--target", "1"]
    assert main(["scan", path, *arguments]) == 0
    shown = capsys.readouterr().out
    assert "hot folios below the top tier are on the target node already." in shown
    assert "from node" not in shown


def test_an_earlier_result_needs_force_and_a_full_disk_keeps_the_report(path, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["scan", path, "--split-cxl", "50%", "--device", "cpu", "--out", str(out)]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    assert main([*arguments, "--force"]) == 1
    shown = capsys.readouterr()
    assert "Node 0 gets" in shown.out
    assert "No space left on device" in shown.err
    assert (out / "scan.json").exists()
