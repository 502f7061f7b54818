"""A machine as rows, as JSON, and on the screen."""

from __future__ import annotations

import json

import pytest

from gpuscan.cli.main import main
from gpuscan.topology import sysfs
from gpuscan.topology.presets import PRESETS, preset
from gpuscan.topology.serialize import topology_to_dict
from gpuscan.topology.table import distance_counts, folded, node_rows, topology_json
from gpuscan.topology.toml import to_toml


def test_rows_say_where_pages_go():
    rows = node_rows(preset("two-socket-cxl", 4 << 30))
    assert [(row.first_nid, row.kind, row.tier, row.n_cpus) for row in rows] == [
        (0, "dram", 0, 32),
        (1, "dram", 0, 32),
        (2, "cxl", 1, 0),
        (3, "cxl", 1, 0),
    ]
    assert [row.promotion_target for row in rows] == [None, None, 0, 1]
    assert [row.demotion_target for row in rows] == [2, 3, None, None]
    assert rows[2].memory_bytes == 1 << 30
    # From the nearer of the two sockets.
    assert (rows[2].latency_ns, rows[2].bandwidth_bytes_per_s) == (250.0, 30e9)


def test_a_thousand_nodes_fold_to_a_screen_and_lose_none():
    rows = folded(node_rows(preset("cxl-pool", 64 << 40)))
    assert len(rows) == 32
    assert (rows[16].first_nid, rows[16].last_nid, rows[16].promotion_target) == (16, 78, 0)
    assert [nid for row in rows for nid in range(row.first_nid, row.last_nid + 1)] == list(range(1024))


def test_distances_are_counted_without_the_diagonal():
    assert distance_counts(preset("two-socket-cxl")) == [(14, 4), (21, 2), (24, 4), (26, 2)]
    assert distance_counts(preset("single")) == []


def test_json_holds_the_whole_machine():
    topology = preset("two-socket-cxl", 4 << 30)
    document = json.loads(json.dumps(topology_json(topology)))
    plain = json.loads(json.dumps(topology_to_dict(topology)))
    assert {**document, **plain, "nodes": document["nodes"]} == document
    for described, node in zip(document["nodes"], plain["nodes"], strict=True):
        assert {**described, **node} == described
    assert document["memory_bytes"] == topology.memory_bytes
    assert document["nodes"][2]["promotion_target"] == 0
    assert document["nodes"][0]["demotion_target"] == 2
    assert document["n_unreachable_pairs"] == 0
    assert topology_json(preset("cxl-pool"))["n_unreachable_pairs"] == 262_080


def test_command_draws_nodes_and_matrix(capsys):
    assert main(["topology", "two-socket-cxl", "--memory", "64GiB"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "cxl", "1", "-", "16", "GiB", "Movable", "1", "-", "250", "ns", "30", "GB/s"] in lines
    assert ["from", "2", "14", "24", "10", "26"] in lines


def test_command_counts_distances_of_large_machines(capsys):
    assert main(["topology", "cxl-pool"]) == 0
    shown = capsys.readouterr().out
    assert "unreachable (255)" in shown
    assert "from 0" not in shown


def test_command_prints_one_json_document(capsys):
    assert main(["topology", "two-socket", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["distance"] == [[10, 21], [21, 10]]


def test_command_lists_presets(capsys):
    assert main(["topology", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRESETS)
    assert main(["topology", "--list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["presets"]] == [*PRESETS]


def test_command_reads_a_file(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(preset("two-socket", 1 << 30)))
    assert main(["topology", str(path)]) == 0
    assert "2 nodes, 1 GiB present" in capsys.readouterr().out


def test_command_says_what_the_host_does_not_tell(monkeypatch, capsys):
    host = sysfs.Host(preset("single"), ("zone DMA of node 0: 97 pages are in doubt",))
    monkeypatch.setattr(sysfs, "read_host", lambda: host)
    assert main(["topology"]) == 0
    shown = capsys.readouterr()
    assert "1 node, 64 GiB present" in shown.out
    assert shown.err == "gpuscan: note: zone DMA of node 0: 97 pages are in doubt\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "unknown topology 'nope'; choose one of"),
        (["missing.toml"], "missing.toml cannot be read"),
        (["single", "--memory", "64"], "'64' has no unit"),
        (["single", "--memory", "1MiB"], "give at least 128 MiB"),
        (["host", "--memory", "1GiB"], "give a size for presets only"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(args, said, capsys):
    assert main(["topology", *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert said in shown.err
