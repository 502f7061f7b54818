"""``gpuscan bench scale`` and the options of shards: the fit, what is refused. No time passes or fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.bench import scale
from gpuscan.bench.bed import StoreShape, bench_topology
from gpuscan.bench.scale import Model, Point, ScaleSettings, fit, project
from gpuscan.cli.main import main
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.store.plan import Plan

POINT = Point(
    "strong", 1, 1 << 24, 1000, 2e6, 1e6, 1e6, 2e6, 10**6, 1e8, 9000, 3e5, 1_000_000, 5e7, 6e7, 12.0
)


def points(per_tick: float, per_shard: float, per_folio: float) -> list[Point]:
    """Return points that obey a model exactly."""
    found = []
    for n_shards, n_folios in ((1, 1000), (2, 5000), (4, 2000), (8, 9000), (3, 0)):
        before_folios, n_many = per_tick + per_shard * n_shards, 200 * (n_folios + 1)
        found.append(
            replace(
                POINT,
                n_shards=n_shards,
                n_folios=n_folios,
                overhead_ns=before_folios + per_folio * n_folios,
                many_folios=n_many,
                many_overhead_ns=before_folios + per_folio * n_many,
            )
        )
    return found


@pytest.mark.parametrize("coefficients", [(1e6, 3e5, 40.0), (0.0, 3e5, 40.0), (1e6, 0.0, 0.0)])
def test_a_fit_finds_the_model_that_made_the_points(coefficients: tuple[float, float, float]) -> None:
    model = fit(points(*coefficients))
    found = model.per_tick_ns, model.per_shard_ns, model.per_folio_ns
    np.testing.assert_allclose(found, coefficients, atol=1e-3)
    assert model.largest_residual < 1e-9


def test_no_coefficient_is_below_zero() -> None:
    model = fit(points(1e6, 3e5, -0.1))
    assert min(model.per_tick_ns, model.per_shard_ns, model.per_folio_ns) == 0
    assert model.largest_residual > 0.01


def test_the_best_number_of_shards_is_where_a_tick_is_shortest() -> None:
    model = fit(points(1e6, 3e5, 40.0))
    n_pages, ns_per_page = 1 << 34, 0.05
    ticks = [ns_per_page * n_pages / n + model.overhead_ns(n, 500) for n in range(1, 500)]
    assert abs(model.best_shards(n_pages, ns_per_page) - (1 + int(np.argmin(ticks)))) <= 1


def test_a_projection_says_what_fits() -> None:
    model: Model = fit(points(1e6, 3e5, 40.0))
    rows = {row["machine"]: row for row in project(model, 1e-4)}
    assert rows["8 x H200, 64 TiB"]["fits"] == {"rfc": True, "pghot-compact": True}
    assert rows["8 x H200, 1 PiB"]["fits"] == {"rfc": False, "pghot-compact": True}
    # 64 TiB: 2**34 pages of 4.25 bytes and a block bit per 512, in 8 parts.
    np.testing.assert_allclose(rows["8 x H200, 64 TiB"]["shard_bytes"]["rfc"], 2**34 / 8 * (4.25 + 1 / 4096))


@pytest.mark.parametrize("shards", [(), (0, 1), (2, 1), (2, 2)])
def test_counts_of_shards_that_make_no_sense(shards: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="give ascending counts of at least 1"):
        ScaleSettings(1 << 24, shards, 1e-4, 1, 1)


@pytest.mark.parametrize("density", [0.0, -1.0, 7.0, float("nan"), float("inf")])
def test_a_density_that_is_none(density: float) -> None:
    with pytest.raises(InputError, match="is no share of pages; give one above 0"):
        ScaleSettings(1 << 24, (1,), density, 1, 1)


def test_a_store_that_cannot_be_cut_evenly_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scale", "--memory", "3GiB", "--shards", "1,2"]) == 2
    assert "give a multiple of 4 GiB" in capsys.readouterr().err


def test_the_measurement_runs_and_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scale"
    arguments = ["--memory", "2GiB", "--shards", "1", "--rounds", "1", "--density", "1e-2", "--out", str(out)]
    assert main(["bench", "scale", *arguments, "--quiet"]) == 0
    text = capsys.readouterr().out
    document = json.loads((out / "scale.json").read_text())
    assert main(["bench", "scale", *arguments, "--quiet"]) == 2
    assert "holds an earlier result" in capsys.readouterr().err
    assert [point["scaling"] for point in document["points"]] == ["strong", "weak"]
    for point in document["points"]:
        assert point["n_folios"] > 4000
        assert point["tick_ns"] > point["scan_ns"] > 0
        assert point["request_bytes"] >= 12
        assert point["many_folios"] > point["n_folios"]
        assert point["many_overhead_ns"] > 0
        assert point["network_bytes"] > 8 * point["n_folios"]
    assert "8 x H200, 1 PiB" in text
    assert "fitted: overhead" in text


def test_what_a_folio_costs_is_taken_from_ticks_of_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    drain, n_plans = ShardedStore.drain, []

    def counting(self: ShardedStore, **options: Any) -> Iterator[Plan]:
        n_plans.append(0)
        for plan in drain(self, **options):
            n_plans[-1] += 1
            yield plan

    monkeypatch.setattr(ShardedStore, "drain", counting)
    monkeypatch.setattr(scale, "_PARALLEL_REQUESTS", 400_000)
    settings = ScaleSettings(1 << 20, (1,), 1e-4, 2, 1)
    topology = bench_topology(StoreShape(settings.n_pages, scale._TARGETS, "rfc", "cpu"))
    with ShardedStore(topology, device="cpu", n_shards=2, n_threads=1) as store:
        point = scale._measure(store, "strong", settings)
        assert point.many_folios > 2 * store.default_capacity
    assert n_plans == [1] * 5


def test_what_is_projected_of_requests_is_called_the_shards_side() -> None:
    model = fit(points(1e6, 3e5, 40.0))
    document = {"projections": project(model, 1e-4), "points": [asdict(POINT)]}
    assert "requests (the shards' side)" in scale.projection_rows(document)[0]
    columns, (row, *_) = scale.scale_rows(document)
    measured = dict(zip(columns, row, strict=True))
    assert (measured["1 M requests to one"], measured["to all shards"]) == ("20.0 M/s", "16.7 M/s")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shard-dir", "/tmp"], "--shard-dir is for shards; give --workers N or --cluster ADDRESS too"),
        (["--workers", "2", "--shard-dir", "/nowhere"], "the directory /nowhere is not there"),
        (["--cluster", "tcp://a:1", "--fallback"], "made anew from what it keeps in --shard-dir; give one"),
        (["--workers", "5000"], "9 sections of 128 MiB cannot be cut into 5000 shards; give 1 to 9"),
        (["--workers", "5000", "--memory", "1TiB"], "5,000 workers are too many for "),
        (["--workers", "2", "--design", "rfc-v1"], "a model that has no shards; leave out --workers"),
    ],
)
def test_options_that_contradict_each_other(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "cxl-promote", "--memory", "1GiB", *arguments]) == 2
    assert said in capsys.readouterr().err
