"""The printed table of a comparison: its verdict, short cells, blocks on a narrow terminal, Markdown."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from gpuscan.cli.output import _parts
from gpuscan.compare.columns.catalogue import column_documents
from gpuscan.compare.endings import NEVER_FOUND
from gpuscan.compare.open_loop import OpenResult
from gpuscan.compare.sheets import markdown_of, sheets_of
from gpuscan.compare.verdict import verdict
from gpuscan.compare.words import about, below
from gpuscan.designs.catalogue import DESIGNS

NAMES = tuple(design.name for design in DESIGNS.in_order)
NAN = float("nan")


def cell(number: float, why_not: str = "", remark: str = "", how: str = "modelled") -> dict[str, Any]:
    number = NAN if why_not else number
    return {
        **{"how": how, "number": number, "low": number, "high": number, "why_not": why_not},
        **{"remark": remark, "values": [number]},
    }


def document_of(names: tuple[str, ...] = NAMES, **rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a comparison's document; rows that are not given have no number."""
    none = cell(NAN, "not measured: nobody has ever looked at it")
    columns = column_documents()
    return {
        "designs": list(names),
        "policy": {"interval_ns": 100_000_000},
        "columns": columns,
        "cells": {
            name: {column["key"]: rows.get(column["key"], {}).get(name, none) for column in columns}
            for name in names
        },
        "curves": {name: {"fast": {"share": [0.301, 0.5]}} for name in names},
    }


def row(how: str = "modelled", **numbers: float) -> dict[str, dict[str, Any]]:
    """Return the cells of some designs, ``_`` for ``-`` in their names."""
    return {name.replace("_", "-"): cell(number, how=how) for name, number in numbers.items()}


WALKS_WIN: dict[str, Any] = {
    "delay_p50": row(rfc_v1=3.3e6, rfc_fixed=3.3e6, gpuscan=52e6, percpu_list=52e6),
    "busy": row(rfc_v1=1.5, rfc_fixed=1.5, gpuscan=0.002, percpu_list=0.0004),
    "wrong_node": row(rfc_v1=57_500, rfc_fixed=0, gpuscan=0, percpu_list=0),
    "lost": row(rfc_v1=0, rfc_fixed=0, gpuscan=12, percpu_list=4000),
    "moved": row(rfc_v1=85_700, gpuscan=85_000),
    "fast_share": row(rfc_v1=0.84, rfc_fixed=0.86, gpuscan=0.87, percpu_list=0.60),
}


def test_the_verdict_says_who_is_best_also_where_that_is_not_us() -> None:
    soonest, cost, lost, worth = verdict(document_of(**WALKS_WIN))
    assert soonest == (
        "rfc-v1 and rfc-fixed find pages soonest as published, half of them within 3.3 ms of their mark; "
        "gpuscan within 52 ms, as it looks once in 100 ms."
    )
    assert cost == (
        "Looking costs rfc-v1 and rfc-fixed 150% of a core and gpuscan 0.2%; it costs percpu-list least, "
        "under 0.1%."
    )
    assert lost == (
        "To a wrong node went 57.5 k under rfc-v1, of up to 85.7 k folios that moved; requests lost: 4 k "
        "under percpu-list and 12 under gpuscan."
    )
    assert worth == (
        "At the end fast memory serves 87.0% of the accesses under gpuscan and rfc-fixed and 60.0% under "
        "percpu-list; it began with 30.1%."
    )


def test_the_verdict_follows_the_figures() -> None:
    changed: dict[str, Any] = {**WALKS_WIN, "delay_p50": row(rfc_v1=90e6, gpuscan=2e6, percpu_list=7e6)}
    changed["lost"] = changed["wrong_node"] = row(rfc_v1=0, gpuscan=0)
    changed["fast_share"] = row(rfc_v1=0.870, gpuscan=0.872)
    soonest, cost, lost, worth = verdict(document_of(**changed))
    assert soonest == (
        "gpuscan finds pages soonest as published, half of them within 2 ms of their mark; the latest is "
        "rfc-v1, 90 ms."
    )
    assert cost.startswith("Looking costs rfc-v1 150% of a core and gpuscan 0.2%; it costs percpu-list least")
    assert lost == "No folio went to a wrong node; no request was lost."
    assert worth == (
        "At the end fast memory serves 87.2% of the accesses under all of them; it began with 30.1%."
    )
    many: dict[str, Any] = dict(
        zip(("rfc_v1", "rfc_fixed", "zone_flag", "hot_list", "per_folio"), range(50, 0, -10), strict=True)
    )
    changed["lost"] = row(**many, gpuscan=3)
    assert verdict(document_of(**changed))[2].endswith(
        "requests lost: 50 under rfc-v1, 40 under rfc-fixed, 30 under zone-flag, 3 under gpuscan and less "
        "under 2 more."
    )
    assert verdict(document_of())[0] == "No design found a page that was asked for."


def test_the_verdict_begins_with_one_cost_and_says_who_has_no_figure_there_and_why() -> None:
    names = ("gpuscan", "rfc-v1", "percpu-list", "section-flag", "section-flag-next")
    late = "found none in the list's first 4 s, which these runs are of"
    cells = row(gpuscan=12e6, percpu_list=4e6, rfc_v1=26e9)
    cells |= {name: cell(NAN, late) for name in names[3:]}
    first, *_ = verdict(document_of(names, **{**WALKS_WIN, "delay_at_1_percent": cells}))
    assert first == (
        "At 1% of a core percpu-list finds pages soonest, half of them within 4 ms, and gpuscan within "
        f"12 ms; no figure there: section-flag and section-flag-next ({late})."
    )


def full() -> dict[str, Any]:
    """Return a document in which every cell has something, with long reasons and remarks."""
    document = document_of()
    for name in NAMES:
        for column in document["columns"]:
            document["cells"][name][column["key"]] = cell(
                {"bytes": 431e9, "ns": 435e6, "share": 0.1234, "count": 123_456_789}[column["unit"]],
                remark="(already there, as a long remark says)",
            )
    document["cells"]["hot-list"]["mark_cost"] = cell(NAN, "not measured: see hot-list in designs.md")
    document["cells"]["hot-list"]["fill"] = cell(NAN, "no batch")
    return document


def test_no_cell_breaks_a_block_and_gpuscan_is_first_in_each() -> None:
    for sheet in sheets_of(full()):
        assert sheet.names == ("gpuscan", *(name for name in NAMES if name != "gpuscan"))
        table = Table(sheet.title, *sheet.names, box=None, header_style="bold", pad_edge=False)
        for title, cells in sheet.rows:
            assert max(map(cell_len, cells)) <= 9
            table.add_row(title, *cells)
        parts = _parts(table, 80, 1 + sheet.n_first)
        assert len(parts) <= 3
        for part in parts:
            assert str(part.columns[1].header) == "gpuscan"
            console = Console(width=200, file=io.StringIO())
            console.print(part)
            lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
            assert max(len(line.rstrip()) for line in lines) <= 80
            assert len(lines) <= len(sheet.rows) + 3  # a header of up to three lines, no cell of several
        shown = {str(column.header).replace("\n", "") for part in parts for column in part.columns[1:]}
        assert shown == set(NAMES)
    assert [len(_parts(table, 160, 2))] == [1]


def test_what_does_not_fit_a_cell_is_said_once_below() -> None:
    sheets = {sheet.title: sheet for sheet in sheets_of(full())}
    cells = dict(sheets["open loop"].rows)
    hot = sheets["open loop"].names.index("hot-list")
    assert cells["how full, mean"][hot] == "no batch"
    costs = dict(sheets["costs"].rows)
    assert costs["producer cost per mark, 1 thread"][hot] == "-"
    assert (
        "producer cost per mark, 1 thread: not measured: see hot-list in designs.md (hot-list)"
        in sheets["costs"].notes
    )
    everywhere = next(note for note in sheets["closed loop"].notes if note.endswith("(all)"))
    assert everywhere.endswith("never used again: already there, as a long remark says (all)")
    # A row in which nobody has a number is no row.
    (sheet, *_) = sheets_of(document_of(delay_p50=row(gpuscan=1e6)))
    assert [title for title, _ in sheet.rows] == ["mark to found, p50"]
    assert sheet.notes[0].endswith("it (all)")
    assert sheet.notes[0].startswith("pages examined; bytes examined; scan time; of one core's time; ")


def test_how_a_cell_was_found_out_is_a_sign_and_a_spread_has_one_unit() -> None:
    document = document_of(
        ("rfc-v1", "gpuscan"), delay_p50=row(rfc_v1=90e6), scan_time=row("measured", gpuscan=3e6)
    )
    spread = document["cells"]["rfc-v1"]["delay_p50"]
    spread.update(low=80e6, high=100e6, values=[80e6, NAN, 100e6])
    (sheet, *_) = sheets_of(document)
    assert dict(sheet.rows) == {"scan time": ("*3 ms", "-"), "mark to found, p50": ("-", "~90 ±10 ms")}
    assert "mark to found, p50: 2 of 3 seeds (rfc-v1)" in sheet.notes


def test_how_far_off_a_model_may_be_stands_in_its_cell() -> None:
    cells = {"gpuscan": cell(30e6, remark="±8%"), "rfc-v1": cell(NAN, "no model: off by 22%")}
    (sheet, *_) = sheets_of(document_of(("gpuscan", "rfc-v1"), scan_64tib=cells))[-1:]
    assert dict(sheet.rows)["one scan of 64 TiB"][0] == "~30 ms ±8%"
    assert not any("±" in note for note in sheet.notes)
    said = [dict(sheet.rows)["one scan of 64 TiB"][1], *sheet.notes]
    assert any("no model: off by 22%" in text for text in said)


def test_markdown_has_a_row_a_line_and_shows_signs_as_they_are() -> None:
    (sheet, *_) = sheets_of(document_of(("rfc-v1", "gpuscan"), delay_p50=row(rfc_v1=90e6, gpuscan=5e6)))
    lines = markdown_of(replace(sheet, notes=("a|b: c (all)",))).splitlines()
    assert lines == [
        "| open loop | gpuscan | rfc-v1 |",
        "| --- | ---: | ---: |",
        r"| mark to found, p50 | \~5 ms | \~90 ms |",
        "",
        r"- a\|b: c (all)",
    ]


@pytest.mark.parametrize(
    ("n", "of", "end_ns", "said"),
    [
        (500_000, 503_748, 4_670_000_000, "open loop: the first 4.67 s of 10 s, 500,000 requests, the same"),
        (503_748, 503_748, 9_990_000_000, "open loop: 10 s, 503,748 requests, the same for all"),
    ],
)
def test_a_list_that_is_cut_says_what_time_it_covers(n: int, of: int, end_ns: int, said: str) -> None:
    document = {
        "workload": {"name": "w", "shows": "s"},
        "machine": {"topology": "t", "memory_bytes": 1 << 30, "n_nodes": 4},
        "open_loop": [{"requests": n, "of": of, "end_ns": end_ns}],
        "closed_loop": [{"horizon_ns": 10_000_000_000, "accesses": 20_000_000}],
        "seeds": [1],
        "left_out": {"hot-list": "promotes from lower tiers only"},
    }
    lines = about(document)
    assert lines[2].startswith(said)
    assert lines[-1] == "left out: hot-list promotes from lower tiers only"


def test_what_a_walk_takes_here_is_said_and_is_no_figure_where_the_model_has_none() -> None:
    document = {
        "saw_too_little": {"hot-list": "found nothing in the open loop: it wants more"},
        "walk_here": {
            "memory_bytes": 16 << 30,
            "ns": {"rfc-v1": 22e6, "per-folio": 22e6, "section-flag": None},
        },
        "model": {"density": 1e-5, "steps": {}},
    }
    little, walk, _ = below(document)
    assert little == "too little to judge by: hot-list found nothing in the open loop: it wants more"
    assert walk == (
        "here a walk of your memory, 16 GiB, would take 22 ms (rfc-v1, per-folio); no figure (section-flag), "
        "with one page in 100,000 marked"
    )


def test_what_is_pending_for_good_is_among_what_is_lost() -> None:
    from test_compare_words import cells_of

    from gpuscan.compare.closed_loop import ClosedResult

    cells = cells_of(OpenResult("rfc-v1", pending=3), ClosedResult("rfc-v1"))
    assert (cells["lost_open"].number, cells["lost_open"].remark) == (3, f"({NEVER_FOUND})")
