"""A run is described once: every field says what it is, and its name stands only where it is used."""

from __future__ import annotations

import ast
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from gpuscan.base.described import Described, described_fields, flag_of
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.cli.main import load_command, main
from gpuscan.compare.request import CompareRequest
from gpuscan.run.job import loaded_job, read_job
from gpuscan.run.kept import KeptRequest, kept_request
from gpuscan.run.request import RunRequest
from gpuscan.run.resume import ResumedRun
from gpuscan.run.scenario import build_scenario
from gpuscan.run.states import is_made_of, made_of
from gpuscan.workload.files import load_workload

ROOT = Path(__file__).parents[2]
FILES_AT_MOST = 3
FIELDS = {each.name: each for each in described_fields(RunRequest)}
KEPT = {name: each for name, each in FIELDS.items() if each.option.kept}
CALLED_SO = ("request", "changes", "run_request", "asked", "anew", "found")
"""How a variable is called that holds a RunRequest, where a file names the class or what has one."""
HOLDERS = ("RunRequest", "KeptRequest", "Job")
NOBODY_ELSES = ("fallback", "insecure", "shard_dir", "every")
"""Fields whose names mean nothing else in gpuscan/ or cli/: a parameter of one is the run's option, passed on
loose."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield what is in gpuscan/ and cli/, the links among them left out."""
    for room in ("gpuscan", "cli"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(part.is_symlink() for part in path.parents):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def named_in(module: ast.Module, place: str) -> set[str]:
    """Return the fields of a RunRequest that a module knows by name."""
    found = set()
    all_names = set(identifiers(module))
    holds = not all_names.isdisjoint(HOLDERS)
    if not holds:
        return all_names & set(NOBODY_ELSES)
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and is_request(node.value, place):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and makes_request(node, place):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_like = isinstance(node.value, ast.Call) and "RunRequest" in identifiers(node.value)
            if is_like or place.endswith("run/request.py"):
                found.add(node.target.id)
    return found & FIELDS.keys() | all_names & set(NOBODY_ELSES)


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the names in code; those in texts and comments are for people."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.arg | ast.keyword):
            yield each.arg or ""
        elif isinstance(each, ast.alias | ast.ClassDef):
            yield each.name


def is_request(node: ast.expr, place: str) -> bool:
    """Whether an expression holds a RunRequest, by what it is called."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in CALLED_SO or (name == "self" and place.endswith("run/request.py"))


def makes_request(node: ast.Call, place: str) -> bool:
    """Whether a call makes a RunRequest, of keywords."""
    name = getattr(node.func, "id", "")
    return name in ("RunRequest", "build_scenario") or (
        name == "replace" and bool(node.args) and is_request(node.args[0], place)
    )


def files_of_fields(trees: Iterator[tuple[str, ast.Module]]) -> dict[str, list[str]]:
    """Return the files that name each field."""
    found = defaultdict(list)
    for place, module in trees:
        for name in named_in(module, place):
            found[name].append(place)
    return found


def test_no_options_name_stands_in_more_than_three_files() -> None:
    files = files_of_fields(modules())
    assert files.keys() == FIELDS.keys()
    assert {name: places for name, places in files.items() if len(places) > FILES_AT_MOST} == {}


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def run(fallback: bool) -> None: ...", {"fallback"}),
        ("store = Store(fallback=True)", {"fallback"}),
        ("def open(request: RunRequest):\n    return request.device, request.path", {"device"}),
        ("def open(job: Job):\n    return job.request.n_threads", {"n_threads"}),
        ("from x import RunRequest\nRunRequest(seed=1)", {"seed"}),
        ("from x import RunRequest\nreplace(request, out=None)", {"out"}),
        ("from x import RunRequest\nreplace(settings, out=None)", set()),
        ("class Other:\n    memory: str = like(RunRequest, 'memory')\n    out: str = ''", {"memory"}),
        ("def live(request: LiveRequest):\n    return request.device", set()),
    ],
)
def test_the_count_sees_a_name(code: str, named: set[str]) -> None:
    assert named_in(ast.parse(code), "gpuscan/room/module.py") == named


def value_for(each: Described) -> Any:
    """Return a value that is not the default."""
    if each.default is False:
        return True
    if each.option.choices:
        return each.option.choices[-1]
    if each.option.low is not None:
        return 7
    if "tuple" in each.type:
        return ("a=1",)
    return Path("/somewhere/there") if "Path" in each.type else "10"


def everything() -> RunRequest:
    return RunRequest(**{name: value_for(each) for name, each in FIELDS.items()})


def test_a_checkpoint_gives_back_every_field_that_it_keeps() -> None:
    asked = everything()
    workload = load_workload("cxl-promote", ["topology.memory=1GiB"])
    job = replace(loaded_job(asked, workload, None, None), where="here", document={"ticks": 3})
    kept = kept_request(job, "0")
    document = json.loads(json.dumps(kept.document()))
    again = KeptRequest.of(document)
    assert again == replace(kept, request=again.request)
    assert {name: getattr(again.request, name) for name in KEPT} == {
        name: getattr(asked, name) for name in KEPT
    }
    others = FIELDS.keys() - KEPT.keys()
    assert {name: getattr(again.request, name) for name in others} == {
        name: getattr(RunRequest(), name) for name in others
    }
    wrong: Any
    for name in KEPT:
        for wrong in ({}, [], 1.5, *([None] if KEPT[name].default is not None else [])):
            with pytest.raises(ValueError, match=name):
                KeptRequest.of({**document, name: wrong})
    for name in document:
        with pytest.raises(ArgumentError, match=f"lacks the key '{name}'"):
            KeptRequest.of({key: value for key, value in document.items() if key != name})


def test_the_keys_of_a_checkpoint_are_those_of_its_schema() -> None:
    state = json.loads((ROOT / "tests/data/checkpoint/checkpoint-00000003/state.json").read_text())
    before = state["body"]["state"]["request"]
    workload = load_workload("cxl-promote", ["topology.memory=1GiB"])
    job = loaded_job(RunRequest(), workload, None, None)
    assert kept_request(job, "0").document().keys() == before.keys()


def test_a_run_goes_on_as_it_was_asked_for_but_for_what_is_not_taken_from_a_checkpoint() -> None:
    untrusted = {name for name, each in KEPT.items() if not each.option.trusted}
    assert untrusted == {"cluster", "shard_dir", "force"}  # docs/checkpoint.md, Somebody else's checkpoint
    asked = replace(everything(), machine=None, split_cxl=None)
    kept = KeptRequest(asked, "here", {}, {}, {}, "0")
    with pytest.raises(InputError, match="does not say whom to trust"):
        kept._changed(RunRequest())
    found = kept._changed(RunRequest(workers=3))
    for name, each in FIELDS.items():
        taken = each.option.kept and each.option.trusted and name != "workers"
        expected = getattr(asked, name) if taken else getattr(RunRequest(), name)
        assert getattr(found, name) == (3 if name == "workers" else expected), name
    for name, each in FIELDS.items():
        changes = replace(RunRequest(workers=3), **{name: value_for(each)})
        changed = getattr(kept._changed(changes), name) == value_for(each)
        assert changed == (each.option.again is not None or getattr(found, name) == value_for(each)), name


def flags_of(command: str) -> set[str]:
    made: Any = load_command(command)
    return {option for parameter in made.params for option in parameter.opts}


def test_a_command_has_the_options_that_are_described() -> None:
    described = {flag_of(each) for each in FIELDS.values() if not each.option.is_argument}
    own = {"--report", "--trace-events", "--json", "--quiet", "-q"}
    assert flags_of("run") == described | own | {"workload"}
    again = {flag_of(each) for each in FIELDS.values() if each.option.again is not None}
    assert flags_of("resume") == again | own | {"directory"}


def test_a_comparison_makes_a_run_of_what_it_shares_with_one() -> None:
    asked = CompareRequest(workload="uniform", topology="two-socket", memory="1GiB", seed=5, out=Path("x"))
    expected = RunRequest(workload="uniform", topology="two-socket", memory="1GiB", seed=5)
    assert asked.run_request() == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (RunRequest(every="5"), "--every is for checkpoints"),
        (RunRequest(split_cxl="50%"), "give one with --machine"),
        (RunRequest(machine=Path("m.zarr"), memory="1GiB"), "leave out --memory or --machine"),
        (RunRequest(machine=Path("m.zarr"), topology="two-socket"), "leave out --topology or --machine"),
        (RunRequest(workload="m.zarr", topology="two-socket"), "leave out --topology or --machine"),
        (RunRequest(insecure=True), "--insecure is for a cluster"),
        (RunRequest(shard_dir=Path("d")), "--shard-dir is for shards"),
        (RunRequest(design="rfc-v1", workers=2), "a model that has no shards"),
        (RunRequest(cluster="tcp://a:1", fallback=True), "made anew from what it keeps in --shard-dir"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_read(asked: RunRequest, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_job(asked)


def test_a_topology_by_its_own_name_and_by_the_earlier_one(tmp_path: Path) -> None:
    trace = tmp_path / "mem.txt"
    trace.write_text("")
    new = read_job(RunRequest(trace=trace, topology="two-socket-cxl"))
    earlier = read_job(RunRequest(trace=trace, machine=Path("two-socket-cxl")))
    assert (new.request, new.document, new.notes) == (earlier.request, earlier.document, ())
    assert "without --topology" in read_job(RunRequest(trace=trace)).notes[0]
    assert read_job(RunRequest(topology="two-socket", workload="uniform")).topology.name == "two-socket"


def test_what_is_given_of_a_trace_is_of_the_workload(tmp_path: Path) -> None:
    trace = tmp_path / "mem.txt"
    request = RunRequest(
        trace=trace, given=("unit=4KiB", "base=0x1000", "pages=1"), topology="two-socket-cxl"
    )
    assert read_job(request).workload.source.given == {"unit": "4KiB", "base": "0x1000", "pages": "1"}
    mine = tmp_path / "mine.toml"
    mine.write_text('shows = "x"\n[source]\nkind = "trace"\ntrace = "a"\ngiven = { pages = "b", way = 1 }\n')
    source = read_job(RunRequest(workload=str(mine))).workload.source
    assert source.given == {"pages": str(tmp_path / "b"), "way": "1"}
    for given, said in (
        (("unit",), "--given unit: that is not KEY=VALUE; write for example"),
        (("unit=1", "unit=2"), "--given unit=2: unit is 1 too; give one of them"),
    ):
        with pytest.raises(InputError, match=said):
            read_job(RunRequest(trace=trace, given=given))
    with pytest.raises(InputError, match="given says something of a trace, and there is none"):
        read_job(RunRequest(given=("unit=4KiB",)))


def test_a_checkpoint_of_before_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was written when a run had five descriptions."""
    shutil.copytree(ROOT / "tests/data/checkpoint", tmp_path / "state")
    run = ResumedRun(tmp_path / "state")
    run.close()
    assert {each.name for each in fields(run.kept)} > {"request", "workload", "topology"}
    assert run.kept.request == RunRequest(every="4")
    n_ticks, n_done = run.n_ticks, len(run.earlier)
    assert main(["resume", str(tmp_path / "state"), "--quiet", "--json", "--device", "cpu"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["summary"]["n_ticks"] == n_ticks
    assert document["resumed_at"] == [n_done]


def test_what_was_made_is_compared_field_by_field_and_may_lack_what_came_later() -> None:
    scenario = build_scenario(load_workload("uniform", ("topology.memory=1GiB", "ticks=2")), device="cpu")
    made = json.loads(json.dumps(made_of(scenario)))
    assert is_made_of(scenario, made)

    def changed(*path: str, **new: Any) -> dict[str, Any]:
        copied = json.loads(json.dumps(made))
        place = copied
        for step in path:
            place = place[int(step) if isinstance(place, list) else step]
        for name, value in new.items():
            if value is None:
                del place[name]
            else:
                place[name] = value
        return cast("dict[str, Any]", copied)

    assert is_made_of(scenario, changed("spec", "cost", folio_ns=None))  # it had no such field, and 0 is none
    assert is_made_of(scenario, changed("spec", "processes", "0", demand=None))
    assert not is_made_of(scenario, changed("spec", "cost", page_ns=1.0))
    assert not is_made_of(scenario, changed("spec", "cost", of_tomorrow=1.0))
    assert not is_made_of(scenario, changed("spec", "processes", "0", name=None))  # a name has no default
    assert not is_made_of(scenario, changed("spec", "processes", "0", accesses_per_s=None))
    assert not is_made_of(scenario, changed("spec", processes=[]))
    assert not is_made_of(scenario, changed(ticks=3))
    assert not is_made_of(scenario, changed(policy=None))
    assert not is_made_of(scenario, [])
