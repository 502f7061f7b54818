"""A map of a real run: it says what the run's own series says; its file, and what is shown of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.heatmap.counting import Counting
from gpuscan.heatmap.map import HeatMap, create_map, read_map
from gpuscan.heatmap.request import window_of
from gpuscan.heatmap.space import Space
from gpuscan.topology.resolve import resolve_topology
from results import small_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_result(tmp_path_factory.mktemp("heatmap"))


def test_the_map_agrees_with_the_series(result: Path) -> None:
    heat, series = read_map(result / "map.parquet"), pq.read_table(result / "series.parquet")
    sums = {name: int(layer.counts.sum()) for name, layer in heat.layers.items()}
    assert sums["claims"] == sum(series["candidate_pages"].to_pylist()) > 10_000
    assert sums["moves"] == sum(series["migrated_pages"].to_pylist()) > 10_000
    assert sums["marks"] == sum(series["metric.marks"].to_pylist())
    n_accesses = sum(series["metric.accesses"].to_pylist())
    assert n_accesses * 0.98 < sums["accesses"] <= n_accesses
    by_tick = np.bincount(heat.layers["moves"].columns, heat.layers["moves"].counts, minlength=12)
    assert by_tick.tolist() == series["migrated_pages"].to_pylist()
    assert all(layer.row_shift == 0 for layer in heat.layers.values())  # single page frames
    from_nodes = {heat.space.node_of(int(row)) for row in heat.layers["moves"].rows}
    assert from_nodes == {2}


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without_a_map(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = json.loads((result / "report.json").read_text(encoding="utf-8"))
    command = ["run", str(result.parent / "small.toml"), "--device", "cpu", "--threads", "1", "-q", "--json"]
    capsys.readouterr()
    assert main(command) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["ledger"] == kept["ledger"]
    assert plain["summary"]["fast"] == kept["summary"]["fast"]


def test_a_file_is_never_larger_than_it_may_be(tmp_path: Path) -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    counting = Counting(topology.page_map.n_pages)
    random = np.random.default_rng(3)
    for step in range(40):
        counting.add(step, random.integers(0, topology.page_map.n_pages, 4000))
    heat = HeatMap(Space.of(topology, 10**8, 40), {"moves": counting.layer()})
    create_map(tmp_path / "fine.parquet", heat)
    create_map(tmp_path / "small.parquet", heat, 100_000)
    fine, small = read_map(tmp_path / "fine.parquet"), read_map(tmp_path / "small.parquet")
    assert (tmp_path / "small.parquet").stat().st_size <= 100_000 < (tmp_path / "fine.parquet").stat().st_size
    assert fine.layers["moves"].row_shift == 0 < small.layers["moves"].row_shift
    assert fine.space == small.space == heat.space
    assert fine.layers["moves"].counts.sum() == small.layers["moves"].counts.sum() == 160_000


def test_pfns_and_flat_pages_are_each_others(result: Path) -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    space, page_map = Space.of(topology, 1, 1), topology.page_map
    for start, end in page_map.extent_flat_ranges():
        for flat in (start, (start + end) // 2, end - 1):
            assert space.pfn_of(flat) == int(page_map.pfn_of_flat(np.array([flat]))[0])
            assert space.flat_of(space.pfn_of(flat)) == flat
            assert space.node_of(flat) == int(page_map.nid_of_flat(np.array([flat]))[0])
    assert Space.parsed(json.loads(json.dumps(space.document()))) == space


def test_bands_are_the_machines_zones_and_nodes_and_holes_what_is_between() -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    space = Space.of(topology, 1, 1)
    nodes, zones = space.bands(by_zone=False), space.bands(by_zone=True)
    assert [(band.nid, band.n_pages) for band in nodes] == [
        (node.nid, node.present_pages) for node in topology.nodes
    ]
    assert [(band.nid, band.name, band.n_pages) for band in zones] == [
        (node.nid, zone.name, zone.present_pages) for node in topology.nodes for zone in node.zones
    ]
    for bands in (nodes, zones):
        assert all(band.end <= other.start for band, other in pairwise(bands))
        assert all(band.end - band.start >= band.n_pages for band in bands)
        assert bands[-1].end <= space.n_pages
    present = sorted(present for node in topology.nodes for zone in node.zones for present in zone.present)
    ends = pairwise(present)
    absent = [(end, start - end) for (_, end), (start, _) in ends if start > end]
    assert [(hole.pfn, hole.n_pages) for hole in space.holes()] == absent
    assert len(absent) > 2
    assert all(space.flat_of(hole.pfn + hole.n_pages) >= hole.flat for hole in space.holes())


def test_damaged_foreign_and_newer_maps_are_refused(result: Path, tmp_path: Path) -> None:
    good = pq.read_table(result / "map.parquet")

    def refused(table: pa.Table, said: str) -> None:
        pq.write_table(table, tmp_path / "bad.parquet")
        with pytest.raises(InputError, match=said):
            read_map(tmp_path / "bad.parquet")

    (tmp_path / "cut.parquet").write_bytes((result / "map.parquet").read_bytes()[:-30])
    with pytest.raises(InputError, match="not a readable map file"):
        read_map(tmp_path / "cut.parquet")
    refused(good.replace_schema_metadata({**good.schema.metadata, b"gpuscan.schema": b"2"}), "schema 2")
    refused(good.replace_schema_metadata({b"gpuscan.schema": b"1"}), "damaged")
    refused(good.drop_columns("count"), "not written by gpuscan")
    refused(good.take(list(range(len(good) - 1, -1, -1))), "not in order")
    refused(pa.concat_tables([good.slice(5), good.slice(0, 5)]), "lies in several places")
    refused(good.set_column(3, "count", pa.array([None, *good["count"].to_pylist()[1:]])), "value is missing")
    rows = good["row"].to_numpy().copy()
    rows[-1] = 1 << 60
    refused(good.set_column(1, "row", pa.array(rows)), "outside the machine")


def test_what_is_shown_says_what_its_axes_are(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["heatmap", str(result), "--of", "moves", "--rows", "16"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said  # no terminal, no colours
    for words in (
        "moves on two-socket-cxl: base pages that were moved away",
        "node 2 (cxl)",
        "PFN",
        "100 ms",
        "0 s",
    ):
        assert words in said
    assert main(["heatmap", str(result), "--of", "moves", "--json", "--time", "0s-300ms"]) == 0
    document = json.loads(capsys.readouterr().out)
    series = pq.read_table(result / "series.parquet")["migrated_pages"].to_pylist()
    assert np.sum(document["counts"]) == sum(series[:3])


def test_colours_come_with_a_terminal_and_go_with_no_color(
    result: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    capsys.readouterr()
    assert main(["heatmap", str(result)]) == 0
    assert "\x1b[38;5;" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["heatmap", str(result)]) == 0
    said = capsys.readouterr().out
    assert "\x1b[38;5;" not in said
    assert "█" in said


def test_the_histograms_add_up_to_the_memory(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = json.loads((result / "report.json").read_text(encoding="utf-8"))["machine"]["memory_bytes"]
    capsys.readouterr()
    for style in ("temperature-sz-hist", "recency-sz-hist"):
        assert main(["heatmap", str(result), "--of", "moves", "--style", style, "--json"]) == 0
        sizes = dict(json.loads(capsys.readouterr().out)["sizes"])
        assert sum(sizes.values()) == memory
        moved = len(np.unique(read_map(result / "map.parquet").layers["moves"].rows)) * 4096
        assert memory - sizes["never"] == moved


@pytest.mark.slow
def test_a_png_is_drawn_and_an_earlier_one_stays(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "map.png"
    assert main(["heatmap", str(result), "--of", "marks", "--png", str(png), "-q"]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = png.read_bytes()
    assert main(["heatmap", str(result), "--png", str(png)]) == 2
    assert "--force" in capsys.readouterr().err
    assert png.read_bytes() == drawn


def test_a_model_has_accesses_alone(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workload = str(result.parent / "small.toml")
    assert main(["run", workload, "--design", "rfc-v1", "--out", str(tmp_path / "model"), "-q"]) == 0
    assert set(read_map(tmp_path / "model" / "map.parquet").layers) == {"accesses"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pfn", "12"], "not a range"),
        (["--pfn", "zz-1"], "not a range of PFNs"),
        (["--pfn", "0xfffffff0-0xffffffff"], "has no page there; give some of"),
        (["--pfn", "0x2000-0x1000"], "--pfn 0x2000-0x1000 is reversed; give 0x1000-0x2000"),
        (["--time", "5s-2s"], "--time 5s-2s is reversed; give 2s-5s"),
        (["--time", "20s-30s"], "nothing was recorded then; give some of 0s-1.2s"),
    ],
)
def test_windows_that_are_none(
    result: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heatmap", str(result), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_results_without_a_map_or_a_layer_say_so(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heatmap", str(tmp_path)]) == 2
    assert "holds no result of" in capsys.readouterr().err
    heat = read_map(result / "map.parquet")
    create_map(tmp_path / "map.parquet", replace(heat, layers={"accesses": heat.layers["accesses"]}))
    assert main(["heatmap", str(tmp_path), "--of", "moves"]) == 2
    assert "has no moves, only accesses" in capsys.readouterr().err
    whole = window_of(heat, None, None)
    assert whole.pages == (0, heat.space.n_pages)
