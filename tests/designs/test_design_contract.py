"""What a design declares, what becomes of one that leaves something out, and what documents say of all."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import ArgumentError, InputError, RunFailedError
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.contract import Design, Modelled, NotMeasured, PlotStyle
from gpuscan.designs.machine import ArrayMachine, ZoneSpan
from gpuscan.designs.steps import ScanSize
from gpuscan.designs.tunables import Bound, Tuning
from gpuscan.engine.policy import Policy
from packages import installed

ROOT = Path(__file__).parents[2]
PLAIN = "rfc-v1"


def declared(**changes: Any) -> Design:
    return replace(DESIGNS.get(PLAIN), **changes)


@pytest.mark.parametrize("name", [place.name for place in fields(Design)])
def test_nothing_that_a_design_declares_has_a_default(name: str, tmp_path: Path) -> None:
    given = {place.name: getattr(DESIGNS.get(PLAIN), place.name) for place in fields(Design)}
    del given[name]
    with pytest.raises(TypeError, match=f"missing 1 required keyword-only argument: '{name}'"):
        Design(**given)
    code = (
        "from dataclasses import fields\n"
        "from gpuscan.designs.catalogue import DESIGNS\n"
        "from gpuscan.designs.contract import Design\n"
        f"plain = DESIGNS.get({PLAIN!r})\n"
        f"given = {{f.name: getattr(plain, f.name) for f in fields(Design) if f.name != {name!r}}}\n"
        "DESIGN = Design(**given)\n"
    )
    with (
        installed(tmp_path, "hasty", code, {"gpuscan.designs": "hasty = hasty:DESIGN"}, DESIGNS),
        pytest.raises(
            InputError, match=f"'hasty' of hasty 1.0 cannot be loaded .*{name}.*; mend or uninstall"
        ),
    ):
        DESIGNS.get("hasty")


def test_what_drives_a_model_and_a_plot_has_no_default_either() -> None:
    for kind in (Modelled, PlotStyle):
        named = [place.name for place in fields(kind) if place.default is MISSING]
        assert set(named) >= {place.name for place in fields(kind)} - {"shaded"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"kind": "borrowed"},
            "'rfc-v1': kind is 'borrowed'; give one of as posted, in a tree, corrected, our reading, ours",
        ),
        ({"looks_at": "both"}, "looks_at is 'both'; give one of pages, entries"),
        ({"counts_accesses": True}, "counts_accesses is True; give one of never, always, when recorded"),
        ({"asks_time": None}, "asks_time is None; give True or False"),
        ({"metadata_bytes": None}, "does not declare its metadata_bytes; give a function"),
        ({"bounds": ()}, "does not declare its bounds; give a function"),
        ({"scan": ()}, "does not declare what a scan costs; give it, or NotMeasured with the reason"),
        ({"scan": None}, "does not declare its scan"),
        ({"mark": None}, "does not declare its mark"),
        ({"beside": None}, "does not declare its beside"),
        ({"look": None}, "a model has record_bytes and a look; give both, or no model"),
        ({"model": None}, "a model has record_bytes and a look; give both, or no model"),
    ],
)
def test_what_is_declared_is_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        declared(**changes)


def test_a_style_without_a_colour_is_refused() -> None:
    with pytest.raises(ArgumentError, match="has no color"):
        PlotStyle(order=1, line={})


def test_a_design_is_called_what_its_package_calls_it(tmp_path: Path) -> None:
    code = f"from gpuscan.designs.catalogue import DESIGNS\nDESIGN = DESIGNS.get({PLAIN!r})\n"
    with (
        installed(tmp_path, "other", code, {"gpuscan.designs": "another = other:DESIGN"}, DESIGNS),
        pytest.raises(InputError, match=r"'another' of other 1\.0 says that its name is 'rfc-v1'; mend or"),
    ):
        DESIGNS.get("another")


def test_a_model_that_looks_at_what_is_not_declared_is_an_error() -> None:
    with pytest.raises(
        RunFailedError, match="declares that it looks at entries, and its model counted 7 others"
    ):
        declared(looks_at="entries").n_looked_at({"pfns_examined": 7, "entries_examined": 0})


def test_what_runs_on_a_store_is_no_model() -> None:
    machine = ArrayMachine([1] * 4, [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 4)], top_tier=(0,))
    for design in DESIGNS:
        if design.runs_on_a_store:
            with pytest.raises(InputError, match=f"the design {design.name} is no model; choose rfc-v1"):
                make_model(design.name, machine, Policy())


def test_what_a_scan_is_of() -> None:
    size = ScanSize.spread(64 * 32_768, 1e-2)
    assert (size.n_sections, size.n_blocks, size.n_candidates) == (64, 64 * 64, 64 * 327.68)
    assert size.marked_sections.n_pages == pytest.approx(size.n_pages)
    lone = ScanSize.spread(size.n_pages, 1 / size.n_pages)
    assert lone.marked_sections.n_pages == pytest.approx(32_768, rel=0.01)
    assert lone.n_marked_blocks == pytest.approx(1, rel=0.01)
    counted = ScanSize.of(2 * 32_768, np.array([0, 1, 511, 512, 32_767]))
    assert counted == ScanSize(65_536, 5, 3, 1)


def cells(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading of docs/designs.md."""
    text = (ROOT / "docs/designs.md").read_text(encoding="utf-8")
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_documents_list_every_design() -> None:
    said = [(f"`{design.name}`", design.line, design.kind) for design in DESIGNS.in_order]
    assert [tuple(row) for row in cells("# Scan designs")] == said


def test_the_documents_say_what_may_be_set() -> None:
    policy = Policy(window_ns=1, rate_limit_bytes_per_s=1, record_format="pghot")
    table = "\n".join("|".join(row) for row in cells("## What may be set"))
    for design in DESIGNS.in_order:
        for bound in design.bounds(Tuning(policy, "request", 1, 1)):
            assert bound.key.removeprefix("policy.") in table, bound
            assert f"`{design.name}`" in table
            if isinstance(bound, Bound):
                assert f"{bound.most:,}" in table or bound.most in (1000, (1 << 31) - 1), bound


def test_bytes_of_a_look_are_those_of_the_documents() -> None:
    text = " ".join((ROOT / "docs/figures.md").read_text(encoding="utf-8").split())
    for design in DESIGNS.in_order:
        if design.record_bytes is not None:
            n_bytes = design.record_bytes(Policy(record_format="pghot-compact"))
            named = rf"\b{n_bytes}( or 4)? for (?:[^0-9]|-v1)*`{design.name}`"
            assert re.search(named, text), design.name


def test_not_measured_says_why() -> None:
    for design in DESIGNS:
        for step in (design.scan, design.mark, design.beside):
            assert not isinstance(step, NotMeasured) or step.why
