"""Designs and columns under any name: a copy is what it is a copy of, and one of others is like ours."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM
from gpuscan.cli.main import main
from gpuscan.compare import plots
from gpuscan.compare.columns.catalogue import COLUMNS, all_columns
from gpuscan.compare.cost_model import measured_steps
from gpuscan.compare.settings import Settings, wanted_designs
from gpuscan.compare.side_costs import ProducerCost
from gpuscan.compare.steps.scans import SCAN_STEPS
from gpuscan.compare.suite import Costs, make_inputs, run_seed, table
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import Charge, Design
from gpuscan.designs.engine import design_engine
from gpuscan.engine.policy import Policy
from gpuscan.run.request import RunRequest
from gpuscan.run.scenario import build_scenario
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, KernelCostSpec, MachineSpec, ProcessSpec
from gpuscan.workload.files import load_workload
from machines import tiered
from packages import installed
from small_steps import cost_model, small_steps, step_model

MS = 1_000_000
ROOT = Path(__file__).parents[2]
BUILT_IN = [design.name for design in DESIGNS.in_order]
ENTRY = "per-request = per_request:COLUMNS"
Add = Callable[[Design], str]
SMALL = ("--memory", "1GiB", "--ticks", "4", "--requests", "500", "--jobs", "1", "--quiet")


def example(page: str, heading: str) -> str:
    """Return the Python of a section of the documents."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]


@pytest.fixture
def add() -> Iterator[Add]:
    """Return what puts a design into the catalogue, as one of another package."""
    module = ModuleType("copies")
    sys.modules["copies"] = module
    added: list[str] = []

    def put(design: Design) -> str:
        attribute = f"COPY_{len(added)}"
        setattr(module, attribute, design)
        DESIGNS._entry_points[design.name] = EntryPoint(design.name, f"copies:{attribute}", DESIGNS.group)
        added.append(design.name)
        return design.name

    yield put
    for name in added:
        del DESIGNS._entry_points[name]
        DESIGNS._loaded.pop(name, None)
    del sys.modules["copies"]


def settings() -> Settings:
    process = ProcessSpec("app", 4096, (0, 1), 60_000.0, ((2, 1.0),), rotate_every_ns=30 * MS)
    slow = KernelCostSpec(walk_pfn_ns=300.0, walk_pfn_locked_ns=300.0, atomics_apart_ns=9000.0)
    faults = HintFaultSpec(1 << 30, 50 * MS, hot_latency_ns=0)
    spec = MachineSpec((process,), faults, kernel=slow, seed=3)
    return Settings(tiered(), spec, Policy(freq_threshold=1, record_format="pghot"), 1200 * MS, 1)


def costs_of(names: list[str]) -> Costs:
    """Return costs that differ from step to step and are the same for every design of one step."""
    models = [
        step_model(step.name, step.terms, 100.0 * i, *(2.0 + i + j for j in range(len(step.terms))))
        for i, step in enumerate(measured_steps(names), 1)
    ]
    slowdown = {model.name: 0.01 * i for i, model in enumerate(models, 1)}
    producers = {name: ProducerCost(5.0, 7.0, 6.0) for name in names}
    return Costs(cost_model(*models), producers, slowdown)


@pytest.mark.parametrize(
    "originals",
    [
        pytest.param((PROGRAM, "rfc-v1", "percpu-list", "hot-list"), id="some"),
        pytest.param(tuple(BUILT_IN), id="all", marks=pytest.mark.slow),
    ],
)
def test_a_copy_under_another_name_has_the_same_cells_in_both_loops(
    tmp_path: Path, add: Add, originals: tuple[str, ...]
) -> None:
    copies = {name: add(replace(DESIGNS.get(name), name=f"a-copy-of-{name}")) for name in originals}
    names, chosen = [*originals, *copies.values()], settings()
    costs = costs_of(names)
    inputs = make_inputs(chosen, tmp_path, 800, lambda *_: None)
    run = run_seed(names, chosen, inputs, costs.model, 1, lambda *_: None)
    cells = table(names, [run], chosen, costs)
    for name, copy in copies.items():
        assert run.opened[copy].design == run.closed[copy].design == copy
        for column in all_columns():
            ours, theirs = cells[name][column.key], cells[copy][column.key]
            if ours.how == "measured" and column.loop == "open":
                continue
            if DESIGNS.get(name).runs_on_a_store and column.key.startswith("delay"):  # scans are timed
                assert theirs.number == pytest.approx(ours.number, rel=0.2, nan_ok=True)
                continue
            assert repr(theirs) == repr(ours), (name, column.key)
    # No two designs of different steps have the same cost, so none has taken another's.
    assert len({cells[name]["scan_1tib"].number for name in originals}) >= 3
    assert cells["hot-list"]["scan_1tib"].why_not == "not measured: see hot-list in designs.md"


@pytest.mark.parametrize("name", DESIGNS.models)
def test_a_run_of_a_copy_is_a_run_of_the_original(name: str, add: Add) -> None:
    copy = add(replace(DESIGNS.get(name), name="a-copy"))
    chosen = settings()
    reports = []
    for design in (name, copy):
        machine = SimulatedMachine(chosen.topology, replace(chosen.spec, seed=1))
        reports.append(design_engine(design, machine, chosen.policy).run(8))
    ours, theirs = reports
    assert (ours.design, theirs.design) == (name, "a-copy")
    assert ours.counters == theirs.counters
    assert ours.ticks == theirs.ticks


def test_a_run_of_another_design_on_a_store_has_its_name_and_is_not_kept(add: Add) -> None:
    copy = add(replace(DESIGNS.get(PROGRAM), name="a-copy"))
    workload = load_workload("cxl-promote", ["topology.memory=512MiB", "ticks=2"])
    documents = []
    for design in (PROGRAM, copy):
        report = build_scenario(workload, design=design, device="cpu", n_threads=1).run()
        assert report.design == design
        documents.append([(tick.candidates, tick.migrated, tick.pending) for tick in report.ticks])
    assert documents[0] == documents[1]
    with pytest.raises(InputError, match="a-copy is another one, which is not kept; leave out --checkpoint"):
        RunRequest(design=copy).check_kept()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_tuning_that_is_refused_is_refused_of_a_copy(name: str, add: Add) -> None:
    copy = add(replace(DESIGNS.get(name), name="a-copy"))
    said = []
    for policy in (Policy(freq_threshold=100), Policy(hz=300), Policy(window_ns=999 * MS)):
        for design in (name, copy):
            try:
                replace(settings(), policy=policy).check(design)
                said.append("")
            except InputError as error:
                said.append(str(error).replace(design, "it"))
    assert said[::2] == said[1::2]


def test_a_step_that_is_none_is_refused_before_anything_runs(add: Add) -> None:
    plain = DESIGNS.get("rfc-v1")
    charges = (Charge("jog"),)
    add(replace(plain, name="jogger", scan=charges))
    add(replace(plain, name="whisperer", mark="whisper"))
    add(replace(plain, name="namesake", look=replace(SCAN_STEPS["section walk"], name="walk")))
    with pytest.raises(InputError, match="jogger declares the step 'jog', which is none; choose walk"):
        wanted_designs("rfc-v1,jogger")
    with pytest.raises(InputError, match="whisperer declares the step 'whisper', which is none; choose two"):
        wanted_designs("whisperer")
    with pytest.raises(InputError, match="namesake brings a step 'walk', and there is one of that name"):
        wanted_designs("namesake")


def test_a_step_of_its_own_is_what_a_design_is_charged_by(add: Add) -> None:
    glance = replace(SCAN_STEPS["walk"], name="glance", terms=("block",))
    scan = (Charge(glance),)
    name = add(replace(DESIGNS.get("rfc-v1"), name="glancer", look=glance, scan=scan))
    assert "glance" in [step.name for step in measured_steps([name])]
    assert "glance" not in [step.name for step in measured_steps(["rfc-v1"])]
    model = cost_model(step_model("glance", ("block",), 0.0, 7.0))
    assert model.step_costs(name).page_ns == pytest.approx(7.0)
    assert model.scan_of(name, 1 << 20).ns == pytest.approx(7.0 * (1 << 20) / 512)


def test_a_design_of_another_package_is_in_table_plots_and_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = tmp_path / "site", tmp_path / "out"
    place.mkdir()
    code, groups = (
        example("extending.md", "A design"),
        {"gpuscan.designs": "node-list = node_list:DESIGN"},
    )
    assert len(code.splitlines()) < 60
    with installed(place, "node_list", code, groups, DESIGNS), small_steps():
        assert DESIGNS.origin("node-list") == "node_list 1.0"
        assert main(["run", "--help"]) == 0
        assert "zone-flag,node-list" in "".join(capsys.readouterr().out.split())
        assert main(["run", "--design", "node-lst"]) == 2
        assert "did you mean 'node-list'?); choose gpuscan" in capsys.readouterr().err
        assert main(["run", "--design", "node-list", "--memory", "1GiB", "--ticks", "4", "-q", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["ledger"]["migrated"] > 0
        asked = [
            "compare",
            *SMALL,
            "--designs",
            "percpu-list,node-list",
            "--out",
            str(out),
            "--no-side-costs",
        ]
        assert main(asked) == 0
        assert "node-list" in capsys.readouterr().out
        document = json.loads((out / "compare.json").read_text())
        assert document["designs"] == ["percpu-list", "node-list"]
        cells = document["cells"]["node-list"]
        assert cells["metadata"]["number"] != document["cells"]["percpu-list"]["metadata"]["number"]
        assert cells["batches"]["number"] > 0
        for draw in (plots._delay_cdf, plots._fast_share):
            (ax,) = draw(document).get_axes()
            assert "node-list" in ax.get_legend_handles_labels()[1]
        (ax,) = plots._scan_by_memory(document).get_axes()  # little memory may be no model, which is said
        assert "node-list" in [
            *ax.get_legend_handles_labels()[1],
            *ax.get_title().split(": ")[-1].split(", "),
        ]
    # Where the package is gone, what was recorded of it is drawn all the same.
    (ax,) = plots._delay_cdf(document).get_axes()
    assert "node-list" in ax.get_legend_handles_labels()[1]


def test_a_column_of_another_package_is_in_table_json_objectives_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = tmp_path / "site", tmp_path / "out"
    place.mkdir()
    code, groups = (
        example("extending.md", "A column of compare"),
        {"gpuscan.columns": ENTRY},
    )
    with installed(place, "per_request", code, groups, COLUMNS), small_steps():
        asked = ["compare", *SMALL, "--designs", "rfc-fixed,percpu-list"]
        assert main([*asked, "--out", str(out), "--no-side-costs"]) == 0
        assert "looks per request" in capsys.readouterr().out
        document = json.loads((out / "compare.json").read_text())
        assert document["columns"][-1]["key"] == "looks_per_request"
        for name, least in (("rfc-fixed", 100), ("percpu-list", 1)):
            assert document["cells"][name]["looks_per_request"]["number"] >= least
        assert (out / "columns.svg").is_file()
        assert (out / "columns.png").stat().st_size > 5000
        assert main([*asked, "--grid", "batch=64", "--objective", "looks_per_request", "--json"]) == 0
        best = json.loads(capsys.readouterr().out)["best"]
        assert best["design"] == "percpu-list"
    assert "looks_per_request" not in [column.key for column in all_columns()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ('key="looks_per_request"', 'key="moved"'),
            "have the key 'moved', which another one has; mend or unin",
        ),
        (('better="smaller",', ""), r"\(TypeError: .*missing 1 required keyword-only argument: 'better'\)"),
        (('unit="count"', 'unit="furlongs"'), "unit is 'furlongs'; give one of count, bytes, ns, share"),
        (
            (
                'explain="How many pages or entries the design looked at for each request that it found."',
                'explain=" "',
            ),
            "does not say what it shows; give explain, one sentence",
        ),
        (("value=_looks", "value=3"), "does not say how it is worked out; give its value, a function"),
    ],
)
def test_a_column_that_declares_too_little_is_refused(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    code = example("extending.md", "A column of compare").replace(*change)
    with (
        installed(tmp_path, "per_request", code, {"gpuscan.columns": ENTRY}, COLUMNS),
        pytest.raises(InputError, match=said),
    ):
        all_columns()


def test_a_comparison_of_before_is_drawn(tmp_path: Path) -> None:
    document = json.loads((ROOT / "tests/data/compare/before-catalogues.json").read_text())
    assert plots.draw(document, tmp_path) == list(plots.PLOTS)
    since = {"delay_at_1_percent", "delay_at_10_percent", "core_for_10_ms", "mark_cost_single"}
    since |= {"overtaken_open", "without_need_open", "overtaken", "without_need"}
    now = [column.key for column in all_columns() if column.key not in since]
    assert [column["key"] for column in document["columns"]] == now


def test_plots_name_designs_without_data_and_the_seed(tmp_path: Path) -> None:
    document = json.loads((ROOT / "tests/data/compare/before-catalogues.json").read_text())
    curves, nothing = document["curves"], document["curves"]["rfc-v1"]
    nothing["delay"] = {"share": [], "ns": []}
    nothing["fill"]["batches"] = [0] * len(nothing["fill"]["batches"])
    nothing["delay_by_place"] = {key: [] for key in nothing["delay_by_place"]}
    nothing["scan"] = {"memory_bytes": [], "ns": [], "error": [], "measured": {"memory_bytes": [], "ns": []}}
    curves["gpuscan"]["scan"] |= {"error": [0.1] * len(curves["gpuscan"]["scan"]["ns"])}
    curves["gpuscan"]["scan"]["measured"] = {"memory_bytes": [1 << 40], "ns": [4e5]}
    document["seeds"] = [7, 8]
    run = {"share": 0.01, "p50_ns": 1e7}
    runs = [run | {"seed": seed} for seed in (7, 8)] + [run | {"seed": 7, "share": 0.1, "p50_ns": 1e6}]
    document["equal_cost"] = {"rfc-v1": [], "gpuscan": runs}
    assert plots.draw(document, tmp_path) == [*plots.PLOTS, plots.EQUAL_COST_PLOT]
    for draw in (plots._delay_cdf, plots._delay_by_place):
        title = draw(document).get_axes()[0].get_title()
        assert title.endswith("not here, found none: rfc-v1")
        assert ", seed 7 (one of 2)" in title
    (ax,) = plots._scan_by_memory(document).get_axes()
    assert ax.get_title().endswith("not here, no model: rfc-v1")
    assert len(ax.collections) == 1  # the band of the model
    assert [np.asarray(line.get_xdata()).tolist() for line in ax.lines if line.get_marker() == "o"] == [
        [1 << 40]
    ]
    (ax,) = plots._delay_by_share(document).get_axes()
    assert ax.get_title().endswith("not here, found none or not measured: rfc-v1")
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [np.size(line.get_xdata()) for line in points] == [3]  # of all seeds
