"""The benchmark: every peer agrees on the answer, the report is complete. No time passes or fails."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.base.installing import install_command
from gpuscan.bench.bed import CLUSTERINGS, Bed, Case, StoreShape
from gpuscan.bench.floors import Floors
from gpuscan.bench.model_costs import chase, walk_locked
from gpuscan.bench.peers.answer import Answer, Question, plain_answer
from gpuscan.bench.peers.catalogue import PEERS, open_peer
from gpuscan.bench.report import ratio_table, request_table, write_report
from gpuscan.bench.scan import OurScan, ratios, written_bytes
from gpuscan.bench.struct_pages import PG_LRU
from gpuscan.bench.sweep import load_sweep, make_sweep, run_sweep
from gpuscan.bench.timing import Contestant, Kind, race
from gpuscan.cli.main import main
from gpuscan.records.formats import FORMATS
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.workload.model import KernelCost

SHAPE = StoreShape(4 * SECTION_PAGES, 4, "rfc", "cpu")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("bench") / "out"
    assert main(["bench", "scan", "--quick", "--quiet", "--out", str(out)]) == 0
    return json.loads((out / "bench.json").read_text()), out


def question(bed: Bed, own_pages: int = 1 << 40) -> Question:
    layout = bed.store.layout
    return Question(bed.records, bed.store.fmt, layout.n_targets, layout.fixed_target, own_pages)


@pytest.mark.slow
def test_quick_measures_everything(quick: tuple[dict[str, Any], Path]) -> None:
    document, _ = quick
    assert document["schema"] == 1
    assert document["kind"] == "bench"
    assert document["host"]["cpu"]
    assert document["ceilings"]["read_bytes_per_s"] > 0
    assert document["ceilings"]["copy_bytes_per_s"] > 0
    cases = {(case["n_pages"], case["density"]) for case in document["scans"]}
    assert cases == set(itertools.product((1 << 20, 1 << 21), (1e-4, 1e-2)))
    ours = {(f"gpuscan {path}", state) for path in ("dense", "indexed", "auto") for state in ("warm", "cold")}
    for case in document["scans"]:
        rows = {(row["name"], row["state"]): row for row in case["results"]}
        assert set(rows) == {("read", "cold"), ("copy", "cold")} | ours | {
            (name, "cold") for name in PEERS.names
        }
        for row in rows.values():
            assert len(row["runs_ns"]) == document["settings"]["rounds"]
            assert row["min_ns"] <= row["p10_ns"] <= row["median_ns"] <= row["p90_ns"]
            assert row["of_floor"] == pytest.approx(row["scaled_ns"] / case["floors"]["read_ns"])
        for key in ours:
            assert set(rows[key]["faster_than"]) == set(PEERS.names)
            assert rows[key]["bytes"] > 0
        assert rows["gpuscan dense", "cold"]["bytes"] >= case["record_bytes"]
        assert rows["gpuscan dense", "cold"]["path"] == "dense"
        assert case["floors"]["dense_bytes_ns"] > case["floors"]["read_ns"]


@pytest.mark.slow
def test_quick_keeps_every_run(quick: tuple[dict[str, Any], Path]) -> None:
    document, out = quick
    runs = pq.read_table(out / "runs.parquet").to_pylist()
    n_rows = sum(len(case["results"]) for case in document["scans"])
    assert len(runs) == n_rows * document["settings"]["rounds"]
    assert all(run["time_ns"] > 0 and run["n_items"] > 0 and run["what"] == "scan" for run in runs)


@pytest.mark.slow
def test_quick_draws_every_figure_twice(quick: tuple[dict[str, Any], Path]) -> None:
    _, out = quick
    kinds = ("time-by-density", "ratio-to-peers", "time-by-pages")
    for kind in kinds:
        stems = sorted(file.stem for file in out.glob(f"{kind}-*.png"))
        assert len(stems) == 2
        assert stems == sorted(file.stem for file in out.glob(f"{kind}-*.svg"))
        assert all((out / f"{stem}.png").read_bytes().startswith(b"\x89PNG") for stem in stems)


CASES = [
    pytest.param("rfc", 4, 0.0, "uniform", id="nothing"),
    pytest.param("rfc", 4, 1.0, "uniform", id="everything"),
    pytest.param("rfc", 4, 0.03, "runs", id="runs"),
    pytest.param("pghot", 3, 0.1, "hot", id="pghot"),
    pytest.param("pghot-compact", 1, 0.02, "uniform", id="compact"),
    pytest.param("rfc", 1, 0.02, "uniform", id="one-target"),
]


@pytest.mark.parametrize(("format_name", "n_targets", "density", "clustering"), CASES)
def test_all_agree(format_name: str, n_targets: int, density: float, clustering: Any) -> None:
    shape = StoreShape(4 * SECTION_PAGES, n_targets, format_name, "cpu")
    with Bed(shape, 2) as bed:
        # Pages that were accessed, but not often enough: records that are neither 0 nor READY.
        counted = np.arange(SECTION_PAGES, shape.n_pages, 3)
        bed.store.record(
            counted,
            bed.targets(counted, np.random.default_rng(1)),
            now_jiffies=12_345,
            window_jiffies=1,
            threshold=2,
            drop_top_tier=False,
        )
        n_ready = bed.fill(Case(shape, density, clustering, 1))
        asked = question(bed, own_pages=3 * SECTION_PAGES)
        expected = plain_answer(asked, 0, asked.n_pages)
        assert len(expected.pfn) == n_ready == bed.store.count_ready()
        for path in ("dense", "indexed", "auto"):
            OurScan(bed, path, n_ready).verify(asked)  # a literal, from a tuple
        for name in PEERS.names:
            peer = open_peer(name).make(asked)
            expected.below(peer.n_pages).require_equal(peer.answer(), name)
        assert bed.store.count_ready() == n_ready


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_fill_lies_as_asked(clustering: Any) -> None:
    shape = StoreShape(64 * SECTION_PAGES, 4, "rfc", "cpu")
    with Bed(shape, 2) as bed:
        n_ready = bed.fill(Case(shape, 0.1, clustering, 2))
        ready = (bed.records & FORMATS["rfc"].ready.mask).astype(np.bool_)
        per_block = ready.reshape(-1, 512).sum(axis=1)
        assert n_ready == ready.sum()
        assert n_ready / shape.n_pages == pytest.approx(0.1, rel=0.15)
        if clustering == "uniform":
            assert per_block.max() < 120
            assert ready[-SECTION_PAGES:].mean() == pytest.approx(0.1, rel=0.2)
        elif clustering == "runs":
            assert set(per_block.tolist()) == {0, 512}
        else:
            assert np.count_nonzero(np.diff(ready.astype(np.int8))) == 2
        per_target = np.diff(plain_answer(question(bed), 0, shape.n_pages).offsets)
        # The hot region is on node 0, whose pages go to the three others.
        assert (per_target[clustering == "hot" :] > n_ready / 5).all()
        bed.empty()
        assert bed.store.count_ready() == 0


def test_a_wrong_answer_is_refused() -> None:
    with Bed(SHAPE, 1) as bed:
        n_ready = bed.fill(Case(SHAPE, 0.01, "uniform", 3))
        asked = question(bed)
        expected = plain_answer(asked, 0, asked.n_pages)
        swapped = expected.pfn.copy()
        swapped[[0, 1]] = swapped[[1, 0]]
        with pytest.raises(RunFailedError, match="nobody gives"):
            expected.require_equal(Answer(expected.offsets, swapped), "nobody")
        shifted = expected.offsets.copy()
        shifted[1] += 1
        with pytest.raises(RunFailedError, match="nobody gives"):
            expected.require_equal(Answer(shifted, expected.pfn), "nobody")
        with pytest.raises(RunFailedError, match=f"claimed {n_ready} pages of {n_ready + 1}"):
            OurScan(bed, "dense", n_ready + 1).measure()
        foreign = Question(asked.records.copy(), asked.fmt, asked.n_targets, asked.fixed_target, 1)
        foreign.records[int(expected.pfn[0])] ^= 1 << asked.fmt.nid.shift
        with pytest.raises(RunFailedError, match="the indexed scan gives"):
            OurScan(bed, "indexed", n_ready).verify(foreign)


def test_race_runs_in_turn_flushes_for_the_cold_and_warms_the_warm() -> None:
    calls: list[str] = []
    times: Iterator[int] = itertools.count(10)

    def contestant(name: str, state: Any) -> Contestant:
        def measure() -> int:
            calls.append(name)
            return next(times)

        return Contestant(name, Kind.PEER, state, measure, {"about": name})

    rounds: list[None] = []
    rows = race(
        [contestant("a", "warm"), contestant("b", "cold")],
        3,
        lambda: calls.append("flush"),
        lambda: rounds.append(None),
    )
    assert calls == ["a", "a", "flush", "b", "flush", "b", "a", "a", "a", "a", "flush", "b"]
    assert len(rounds) == 3
    assert rows[0]["runs_ns"] == [11, 15, 17]
    assert rows[0]["median_ns"] == 15
    assert rows[1]["about"] == "b"


def test_floors_touch_what_they_say() -> None:
    floors = Floors(2, 1 << 20)
    records = np.ones(1000, dtype=np.uint32)
    floors.write_at(records, np.arange(1, 1000, 7))
    assert np.flatnonzero(records == 0).tolist() == list(range(1, 1000, 7))
    floors.read(records)
    floors._scratch[: len(floors._scratch) // 2] = 5
    floors.copy()
    assert (floors._scratch == 1).all()
    assert floors.copy_bytes == 2 * floors._scratch.nbytes // 2


def test_ratios_scale_a_peer_that_did_less() -> None:
    def row(name: str, kind: str, ns: float, **facts: Any) -> dict[str, Any]:
        return {"name": name, "kind": kind, "state": "cold", "median_ns": ns, **facts}

    rows = [
        row("read", "floor", 100.0),
        row("copy", "floor", 50.0, bytes=1000),
        row("gpuscan auto", "gpuscan", 150.0),
        row("walk", "peer", 300.0, measured_pages=SHAPE.n_pages // 4),
    ]
    floors = ratios(rows, Case(SHAPE, 0.5, "uniform", 0), 0, SHAPE.n_pages * 4)["floors"]
    assert floors["dense_bytes_ns"] == floors["read_ns"] == 100.0
    assert rows[3]["scaled_ns"] == 1200.0
    assert rows[2]["faster_than"] == {"walk": 8.0}
    assert rows[2]["of_floor"] == 1.5


def test_written_bytes() -> None:
    # Every record claimed: all of its lines, and 12 bytes of plan each.
    assert written_bytes(1600, 6400, 1600, uniform=True) == 6400 + 1600 * 12
    assert written_bytes(160, 6400, 1600, uniform=False) == 640 + 160 * 12
    assert written_bytes(1, 64_000_000, 16_000_000, uniform=True) == pytest.approx(64 + 12, rel=1e-6)


def test_request_and_tick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--memory", "1GiB", "--targets", "4", "--rounds", "2", "--quiet", "--json"]
    assert main(["bench", "request", "--requests", "50000", "--out", str(tmp_path / "out"), *common]) == 0
    (case,) = json.loads(capsys.readouterr().out)["requests"]
    rates = {row["name"]: row["per_s"] for row in case["results"]}
    assert set(rates) == {
        "random writes",
        "numpy",
        *(
            f"gpuscan {call}, {order} PFNs"
            for call in ("request", "record")
            for order in ("random", "ascending")
        ),
    }
    assert [file.suffix for file in sorted((tmp_path / "out").glob("requests-*"))] == [".png", ".svg"]
    assert main(["bench", "tick", "--density", "0.1%", *common]) == 0
    (case,) = json.loads(capsys.readouterr().out)["ticks"]
    assert case["n_marks"] == 262
    assert case["n_batches"] == 4
    tick = case["results"][1]
    assert 0 < tick["scan_ns"] < tick["median_ns"]


def test_an_earlier_result_is_replaced_with_force_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    args = ["bench", "tick", "--memory", "1GiB", "--targets", "4", "--density", "0.1%", "--rounds", "1"]
    args += ["--quiet", "--out", str(out)]
    assert main(args) == 0
    (out / "runs.parquet").unlink()
    before = (out / "bench.json").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patched:  # refused before anything is measured
        patched.setattr("gpuscan.bench.sweep.run_sweep", None)
        assert main(args) == 2
    assert f"{out} holds an earlier result; give another place, or --force" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds an earlier result"):
        write_report(out, {}, plots=False)
    assert (out / "bench.json").read_bytes() == before
    assert main([*args, "--force"]) == 0
    assert (out / "runs.parquet").exists()


def test_tables_name_every_contestant(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--memory", "1GiB", "--targets", "4", "--rounds", "1", "--quiet"]
    assert main(["bench", "scan", "--density", "1%", "--peers", "numpy,kernel-walk", *args]) == 0
    out = capsys.readouterr().out
    assert "1 GiB, 4 targets, rfc on cpu, density 0.01, uniform" in out
    for name in ("read", "copy", "gpuscan dense", "gpuscan indexed", "gpuscan auto", "numpy", "kernel-walk"):
        assert f"\n{name} " in out
    assert main(["bench", "tick", "--density", "0.1%", *args]) == 0
    assert "\ngpuscan tick" in capsys.readouterr().out
    assert main(["bench", "request", "--requests", "1000", *args]) == 0
    assert "\nrandom writes" in capsys.readouterr().out


def test_ratios_are_those_of_the_rounds() -> None:
    def row(name: str, kind: str, *runs_ns: float, **facts: Any) -> dict[str, Any]:
        return {
            "name": name,
            "kind": kind,
            "state": "cold",
            "median_ns": runs_ns[1],
            "scaled_ns": runs_ns[1],
            "runs_ns": runs_ns,
        } | facts

    rows = [
        row("read", "floor", 10.0, 20.0, 40.0),
        row("copy", "floor", 100.0, 200.0, 400.0, bytes=1000),
        row(
            "gpuscan dense", "gpuscan", 40.0, 80.0, 160.0, widening_ns=7e6
        ),  # as slow as memory in each round
        row("polars", "peer", 400.0, 400.0, 160.0),
        row("polars-in-memory", "peer", 120.0, 800.0, 320.0),
        row("numpy", "peer", 1.0, 1.0, 1.0, scaled_ns=1000.0),  # of a part of the pages
    ]
    case = {"n_targets": 16, "format": "rfc", "device": "cpu", "floors": {"written_bytes": 100.0}}
    (ours,) = ratio_table([case | {"results": rows}])
    assert ours[3:] == ("4 (4 to 4)", "2 (2 to 2)", "3 (1.4 to 4.6)", "7 ms")
    (without,) = ratio_table([case | {"results": rows[:3]}])
    assert without[5] == ""
    requests = [
        row("random writes", "floor", 1.0, 2.0, 3.0),
        row("gpuscan request", "gpuscan", 2.0, 4.0, 6.0),
    ]
    for of_case in requests:
        of_case |= {"p10_ns": 1.0, "p90_ns": 3.0, "per_s": 5.0}
    assert [line[-1] for line in request_table({"results": requests})] == ["1 (1 to 1)", "0.5 (0.5 to 0.5)"]


def test_peers_stay_away_where_their_answers_take_more_than_the_records() -> None:
    sweep = make_sweep(
        {
            "rounds": 1,
            "threads": 1,
            "scan": [{"memory": ["256MiB"], "targets": [2], "density": [0.5, 1.0], "peers": ["numpy"]}],
        },
        "the test",
    )
    few, all_pages = run_sweep(sweep, lambda name: None)["scans"]
    assert [row["name"] for row in few["results"] if row["kind"] == "peer"] == ["numpy"]
    assert not [row for row in all_pages["results"] if row["kind"] == "peer"]
    assert all(row["widening_ns"] > 0 for row in all_pages["results"] if row["kind"] == "gpuscan")


def test_sweep_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'rounds = 1\nthreads = 2\n[[scan]]\nmemory = ["1GiB"]\ntargets = [4]\ndensity = [1e-3]\n'
        'clustering = ["runs", "hot"]\nformat = ["rfc", "pghot"]\n'
        '[[tick]]\nmemory = ["1GiB"]\ntargets = [4]\n'
    )
    sweep = load_sweep(file)
    steps: list[str] = []
    document = run_sweep(sweep, steps.append)
    assert len(steps) == sweep.n_steps() == 10
    assert [(case["format"], case["clustering"]) for case in document["scans"]] == [
        ("rfc", "runs"),
        ("rfc", "hot"),
        ("pghot", "runs"),
        ("pghot", "hot"),
    ]
    assert len(document["ticks"]) == 1


def test_recorded_sweep_can_be_run() -> None:
    sweep = load_sweep(Path(__file__).parents[2] / "benchmarks" / "sweep.toml")
    sweep.check()
    assert sweep.rounds >= 7


def test_bars_are_read_off_a_report(tmp_path: Path) -> None:
    def case(n_pages: int, density: float, n_targets: int = 16, fmt: str = "rfc") -> dict[str, Any]:
        times = {"dense": 40e6, "indexed": 1e6, "auto": 1.02e6}
        rows: list[dict[str, Any]] = [
            {
                "name": f"gpuscan {path}",
                "state": state,
                "median_ns": ns,
                "runs_ns": [ns, 2 * ns],  # memory changes its pace, for both
                "of_floor": ns / 36e6,
                "faster_than": {"polars": 1.9 if path == "dense" else 70.0, "numpy": 9.0},
            }
            for path, ns in times.items()
            for state in ("warm", "cold")
        ]
        rows.append({"name": "read", "state": "cold", "median_ns": 36e6, "runs_ns": [36e6, 72e6]})
        facts = {"format": fmt, "clustering": "uniform", "n_ready": 1000, "record_bytes": 1 << 30}
        floors = {"read_ns": 36e6, "dense_bytes_ns": 36e6}
        axes = {"n_pages": n_pages, "density": density, "n_targets": n_targets}
        return {**facts, **axes, "floors": floors, "extra_bytes": 1 << 20, "results": rows}

    tib = 1 << 28
    document = {
        "host": {"cpu": "some CPU", "recorded": "now"},
        "settings": {"n_threads": 2},
        "scans": [
            case(tib, 1e-4),
            case(2 * tib, 1e-4),
            case(tib, 1e-2),
            case(tib, 1e-2, 1024),
            case(tib, 1.0),
            case(tib, 1e-2, 1, "pghot-compact"),
        ],
        "requests": [
            {
                "n_pages": tib,
                "results": [
                    {
                        "name": f"gpuscan request, {order} PFNs",
                        "state": "cold",
                        "per_s": per_s,
                        "of_ceiling": 0.4,
                    }
                    for order, per_s in (("random", 60e6), ("ascending", 149e6))
                ],
            }
        ],
    }
    report = tmp_path / "bench.json"
    report.write_text(json.dumps(document))
    script = Path(__file__).parents[2] / "benchmarks" / "bars.py"
    done = subprocess.run([sys.executable, script, report], capture_output=True, text=True, check=True)
    rows = done.stdout.splitlines()
    assert "| dense / read floor at 0.0001 | <= 1.15x | 1.11x | yes |" in rows
    assert "| Polars / dense at 0.0001 | >= 1.7x | 1.9x | yes |" in rows
    assert "| Polars / dense at 0.01 | >= 2x | 1.9x | **no** |" in rows
    assert "| NumPy / auto at 0.01 | >= 10x | 9x | **no** |" in rows
    assert "| auto / better path at 0.01, cold | <= 1.1x or +50 us | 1.02x, +20 us | yes |" in rows
    assert "| indexed at 0.0001, warm | <= 1 ms | 1 ms | yes |" in rows
    assert "| read floor / indexed at 0.0001, cold | >= 20x | 36x | yes |" in rows
    assert "| 1,024 targets / 16 targets, dense at 0.01 | <= 1.2x | 1x | yes |" in rows
    assert "| dense / byte floor, every page READY | <= 2.2x | 1.11x | yes |" in rows
    assert "| auto / read floor at 0.01 | <= 1.25x | 0.0283x | yes |" in rows
    assert "| dense / byte floor, pghot-compact at 0.01 | <= 1.6x | 1.11x | yes |" in rows
    assert "| random requests / random writes | >= 0.42x | 0.4x | **no** |" in rows
    assert "| ascending requests | >= 150 M/s | 149 M/s | **no** |" in rows
    growth = "dense / floor by round, most over least, 2^28 to 2^29 pages at 0.0001"
    assert f"| {growth} | <= 1.15x | 1x | yes |" in rows


@pytest.mark.parametrize(
    ("grid", "cause"),
    [
        ({"memory": ["64"]}, "'64' has no unit"),
        ({"memory": []}, r"the options: scan\.0\.memory is empty; give at least one"),
        (
            {"memory": ["1TiB"], "sizes": 1},
            r"the options: unknown key scan\.0\.sizes; choose from memory",
        ),
        ({"memory": ["1TiB"], "clustering": ["odd"]}, r"scan\.0\.clustering\.0 must be 'uniform', "),
        ({"memory": ["1TiB"], "peers": ["odd"]}, "unknown peer 'odd'; choose duckdb, "),
        ({"memory": ["1TiB"], "density": [2.0]}, "density of 2.0 is not a share"),
        ({"memory": ["1TiB"], "format": ["odd"]}, "unknown record format 'odd'"),
        ({"memory": ["1TiB"], "format": ["pghot-compact"]}, "16 targets cannot be measured; give 1"),
        ({"memory": ["1TiB"], "targets": [0]}, "0 targets: give 1 to 1024"),
        ({"memory": ["1TiB"], "capacity": 5}, r"scan\.0\.capacity must be at least 512, not 5"),
        ({"memory": ["1TiB"], "targets": ["x"]}, r"scan\.0\.targets\.0 must be a whole number, not 'x'"),
        ({"memory": ["64gib"]}, "did you mean '64GiB'"),
        ({"memory": ["1GiB"]}, "1 GiB for 16 targets: give a multiple of 128 MiB, at least 2 GiB"),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_runs(grid: dict[str, Any], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        make_sweep({"scan": [grid]}, "the options").check()


def test_unreadable_sweeps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the sweep"):
        load_sweep(tmp_path / "none.toml")
    file = tmp_path / "broken.toml"
    file.write_text("rounds = [")
    with pytest.raises(InputError, match=r"broken\.toml: .*fix the TOML there"):
        load_sweep(file)


@pytest.mark.parametrize(("name", "module"), [("polars", "polars"), ("duckdb", "duckdb")])
def test_missing_peer(name: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["bench", "scan", "--memory", "2GiB", "--peers", name]) == 2
    assert install_command("bench", module) in capsys.readouterr().err


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    args = [
        "bench",
        "scan",
        "--memory",
        "2GiB",
        "--peers",
        "",
        "--rounds",
        "1",
        "--density",
        "1e-3",
        "--quiet",
    ]
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    assert f"{install_command('bench', 'matplotlib')}, or give --no-plots" in capsys.readouterr().err
    assert main([*args, "--out", str(tmp_path / "out"), "--no-plots"]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["bench.json", "runs.parquet"]


def test_costs_are_measured_under_the_keys_of_a_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "costs", "--walk-pages", "4096", "--rounds", "2", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "costs"
    assert set(document["costs"]) == set(KernelCost.model_fields) - {"atomics_apart"}
    for found in document["costs"].values():
        assert 0 < found["min_ns"] <= found["median_ns"] <= found["max_ns"]
    # A line from memory takes longer than an atomic on one that is at hand, on any machine.
    assert document["costs"]["cold_line"]["min_ns"] > document["costs"]["atomic"]["min_ns"]


def test_the_measured_walk_clears_what_is_ready_and_the_chase_comes_back() -> None:
    pages = np.zeros((8, 8), dtype=np.int64)
    pages[:, 0] = 1 << PG_LRU
    pages[5, 0] = 0  # off the LRU
    words = np.full(16, 4, dtype=np.int64)
    assert walk_locked.for_bits(64)(pages, words, 4) == 7
    assert words.tolist() == [0, 4] * 5 + [4, 4] + [0, 4] * 2
    ring = np.zeros((4, 8), dtype=np.int64)
    ring[[0, 2, 1, 3], 0] = [2, 1, 3, 0]
    assert [chase.for_bits(64)(ring, n) for n in range(5)] == [0, 2, 1, 3, 0]
