"""``gpuscan reproduce``: names, one document, a directory, and exit code 0 with misses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscan.cli.main import main
from gpuscan.reproduce.catalogue import EXPERIMENTS
from gpuscan.reproduce.contract import Experiment, Outcome, Published, Setting


def lines_of(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main(["reproduce", *args]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(lines_of(capsys, "--list", "--json"))
    listed = {one["name"]: one["figures"] for one in document["experiments"]}
    assert set(listed) == set(EXPERIMENTS.names)
    assert listed["pghot-v3"] == 6
    text = lines_of(capsys, "--list")
    assert all(name in text for name in EXPERIMENTS.names)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("colloid",), "unknown experiment 'colloid' (did you mean"),
        (("folio-sizes", "--topology", "two-socket"), "folio-sizes has a machine of its own"),
        (("--topology", "two-socket"), "leave out --topology"),
        (("batch-size", "--topology", "nowhere"), "nowhere"),
        (("batch-size", "--topology", "single"), "topology single has memory on one node"),
        (("batch-size", "--memory", "64GiB"), "--memory is the size of a preset of --topology"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], said: str
) -> None:
    assert said in lines_of(capsys, *args, code=2)


def test_a_curve_for_a_machine_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ("batch-size", "--topology", "cxl-pool", "--memory", "1TiB", "--quiet", "--json")
    document = json.loads(lines_of(capsys, *args))
    (experiment,) = document["experiments"]
    best, *curves = experiment["tables"]
    assert len(best["rows"]) == len(curves) > 3
    for curve in curves:
        rates = [row[1] for row in curve["rows"]]
        waits = [row[3] for row in curve["rows"]]
        assert rates == sorted(rates)
        assert waits == sorted(waits)
    for row in best["rows"]:
        assert list(row[1:-1]) == sorted(row[1:-1], reverse=True)
    kept = (*args, "--no-plots", "--out", str(tmp_path / "curve"))
    document = json.loads(lines_of(capsys, *kept))
    assert {path.name for path in (tmp_path / "curve").iterdir()} == {"reproduce.json", "reproduce.md"}
    written = json.loads((tmp_path / "curve/reproduce.json").read_text())
    assert written["experiments"] == document["experiments"]
    assert "give another place, or --force to replace it" in lines_of(capsys, *kept, code=2)
    assert lines_of(capsys, *kept, "--force")


def test_a_miss_is_shown_and_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def run(setting: Setting) -> Outcome:
        setting.on_step("half of it", 0.5)
        steps.append(setting.seed)
        return Outcome({"x": 7.0})

    made = Experiment(
        about="a test",
        source="nobody",
        machine="none",
        published=(Published(key="x", what="the x", value=5, unit="", kind="rate", missing="a machine"),),
        orders=(),
        not_modelled=(),
        fitted=(),
        scale="as published",
        takes_topology=False,
        draw=None,
        run=run,
    )
    monkeypatch.setitem(EXPERIMENTS._loaded, "folio-sizes", made)
    text = lines_of(capsys, "folio-sizes", "--quiet", "--seed", "9")
    assert "missed: the x: a machine" in text
    assert "0 of 1 figures and orders reached" in text
    assert steps == [9]
    assert "| the x | 5 | 7 | +40.0% | missed |" in lines_of(capsys, "folio-sizes", "--quiet", "--markdown")


@pytest.mark.slow
def test_a_curve_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Take 4 s: matplotlib."""
    assert lines_of(capsys, "batch-size", "--quiet", "--out", str(tmp_path / "curve"))
    names = {"reproduce.json", "reproduce.md", "batch-size.png", "batch-size.svg"}
    assert {path.name for path in (tmp_path / "curve").iterdir()} == names


@pytest.mark.slow
def test_fits_predict(capsys: pytest.CaptureFixture[str]) -> None:
    """Take 10 s: the two that are quick, as they stand in docs/reproduce.md."""
    document = json.loads(lines_of(capsys, "folio-sizes", "tlb-batching", "--quiet", "--json"))
    verdicts = {row["key"]: row["verdict"] for one in document["experiments"] for row in one["rows"]}
    assert {key for key, verdict in verdicts.items() if verdict == "fitted"} == {"4K", "1M", "gain"}
    assert {key for key, verdict in verdicts.items() if verdict == "missed"} == {"left"}
    assert (document["reached"], document["judged"]) == (7, 8)


@pytest.mark.slow
def test_balancing_gains_what_was_published() -> None:
    """Take 10 s: one cell of Colloid's table."""
    from gpuscan.migrate.placement import BalanceLatency, PromoteHot
    from gpuscan.reproduce.gups import Load, run_gups

    load = Load(antagonist_cores=10, order=0, scale=64, think_ns=92.0)
    packed, balanced = run_gups(load, PromoteHot(), 1), run_gups(load, BalanceLatency(), 1)
    assert packed.fast_share > 0.9 > 0.1 > balanced.fast_share
    assert packed.fast_ns > 1.8 * packed.slow_ns
    assert balanced.updates_per_s / packed.updates_per_s == pytest.approx(1.424, rel=0.02)
