"""The words of a comparison: what a row means, and how a mark ended that moved nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpuscan.cli.main import main
from gpuscan.compare.closed_loop import ClosedResult
from gpuscan.compare.columns.catalogue import all_columns
from gpuscan.compare.columns.cells import Cell, cell_of
from gpuscan.compare.columns.contract import Figures
from gpuscan.compare.cost_fit import Estimate
from gpuscan.compare.endings import Endings
from gpuscan.compare.open_loop import OpenResult
from gpuscan.compare.request_list import ENTRY, write_request_list
from gpuscan.compare.suite import SeedRun
from gpuscan.compare.too_little import saw_too_little

NAN = float("nan")
ONE = Estimate(1.0, 0.0)


def cells_of(opened: OpenResult, closed: ClosedResult) -> dict[str, Cell]:
    figures = Figures(opened.design, opened, closed, 1000, 1, 0, NAN, NAN, NAN, ONE, ONE)
    return {column.key: cell_of(column, [figures]) for column in all_columns()}


def test_lost_is_what_should_have_moved_and_did_not() -> None:
    ended = {
        "already there": 225_000,
        "stale: freed or reallocated": 30,
        "overwritten nid": 400,
        "consumed before refusal": 7,
        "a reason of another package": 2,
        "never": 0,
    }
    assert Endings.of(ended) == Endings(
        {"already there": 225_000, "stale: freed or reallocated": 30},
        {"overwritten nid": 400},
        {"consumed before refusal": 7, "a reason of another package": 2},
    )
    cells = cells_of(OpenResult("rfc-v1", lost=ended, pending=5), ClosedResult("rfc-v1", lost=ended))
    for loop, lost in (("", 9), ("_open", 14)):  # what is pending for good is lost, too
        assert cells[f"lost{loop}"].number == lost
        assert cells[f"overtaken{loop}"].number == 400
        assert cells[f"without_need{loop}"].number == 225_030
    assert cells["lost"].remark == "(consumed before refusal)"
    assert cells["without_need"].remark == "(already there)"


def test_every_row_is_said_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for column in all_columns():
        assert re.fullmatch(r"[A-Z][^\n]*\.", column.explain), column.key
        assert ". " not in column.explain
        assert len(column.title) <= 34
    assert main(["compare", "--explain", "all", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["columns"]
    assert [each["key"] for each in listed] == [column.key for column in all_columns()]
    assert all(each["explain"] for each in listed)


def test_a_row_is_explained_by_key_or_title_and_an_unknown_one_by_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "--explain", "lost"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("requests lost (closed loop, lost): Folios that should have")
    assert shown.err == ""
    assert main(["compare", "--explain", "Requests lost"]) == 0
    assert capsys.readouterr().out.count("requests lost (") == 2
    assert main(["compare", "--explain", "marks without ned"]) == 2
    error = capsys.readouterr().err
    assert "unknown row 'marks without ned' (did you mean 'without_need'?); choose all, pages" in error


def run_of(opened: OpenResult, pfns: list[int], path: Path) -> SeedRun:
    entries = np.zeros(len(pfns), dtype=ENTRY)
    entries["pfn"], entries["time_ns"] = pfns, range(len(pfns))
    requests = write_request_list(entries, path / "list.npy")
    return SeedRun(1, None, requests, {opened.design: opened}, {}, {}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("opened", "pfns", "said"),
    [
        (OpenResult("rfc-v1", found=100, requested=400), [*range(400)], None),
        (
            OpenResult("section-flag", never_ready=400),
            [*range(390), *range(10)],
            "found nothing in the open loop: it wants several accesses of a page, and in the list's 399 ns "
            "10 of 390 pages are marked again; give more --ticks",
        ),
        (
            OpenResult("rfc-v1", found=7),
            [*range(7)],
            "found 7 in the open loop: the list has 7 requests in all",
        ),
        (
            OpenResult(
                "percpu-list", found=20, requested=400, lost={"list overflow": 370, "already there": 5}
            ),
            [*range(400)],
            "found 20 in the open loop: 370 of 400 requests were lost (list overflow)",
        ),
    ],
)
def test_who_saw_too_little_is_told_with_the_reason(
    opened: OpenResult, pfns: list[int], said: str | None, tmp_path: Path
) -> None:
    found = saw_too_little(run_of(opened, pfns, tmp_path))
    if said is None:
        assert found == {}
    else:
        assert found[opened.design].startswith(said)
