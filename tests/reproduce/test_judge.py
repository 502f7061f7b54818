"""How ours is laid beside what was published: bars, orders, and what is said of a miss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.reproduce.contract import Experiment, Kind, Order, Outcome, Published, Table
from gpuscan.reproduce.judge import Judged, judge
from gpuscan.reproduce.report import document_of, markdown_of
from gpuscan.reproduce.run import Reproduced, wanted


def figure(
    key: str, value: float, kind: Kind = "count", *, fitted: bool = False, missing: str = ""
) -> Published:
    return Published(
        key=key, what=f"the {key}", value=value, unit="MB", kind=kind, fitted=fitted, missing=missing
    )


def experiment(published: tuple[Published, ...], orders: tuple[Order, ...] = ()) -> Experiment:
    return Experiment(
        about="a test",
        source="nobody, nowhere",
        machine="none",
        published=published,
        orders=orders,
        not_modelled=("everything",),
        fitted=(),
        scale="as published",
        takes_topology=False,
        draw=None,
        run=lambda setting: Outcome({}),
    )


def judged(published: tuple[Published, ...], ours: Mapping[str, float], *orders: Order) -> Judged:
    return judge("test", experiment(published, orders), Outcome(ours))


@pytest.mark.parametrize(
    ("kind", "published", "ours", "verdict"),
    [
        ("count", 1000, 1010, "reached"),
        ("count", 1000, 990, "reached"),
        ("count", 1000, 1011, "missed"),
        ("rate", 1000, 1100, "reached"),
        ("rate", 1000, 899, "missed"),
        ("ratio", 2.0, 2.2, "reached"),
        ("ratio", 2.0, 2.21, "missed"),
        ("context", 2.0, 9.0, "shown"),
        ("count", 0, 0, "reached"),
        ("count", 0, 1, "missed"),
        ("count", 1000, math.nan, "missed"),
    ],
)
def test_a_bar(kind: Kind, published: float, ours: float, verdict: str) -> None:
    (row,) = judged((figure("x", published, kind),), {"x": ours}).rows
    assert row.verdict == verdict


def test_a_figure_that_we_do_not_have_is_missed() -> None:
    found = judged((figure("x", 5, missing="a machine"),), {})
    assert (found.rows[0].verdict, found.rows[0].ours, found.rows[0].why) == ("missed", None, "a machine")
    assert (found.n_reached, found.n_judged) == (0, 1)


def test_what_was_fitted_is_in_no_count() -> None:
    found = judged((figure("x", 5, fitted=True), figure("y", 5)), {"x": 5, "y": 5})
    assert [row.verdict for row in found.rows] == ["fitted", "reached"]
    assert (found.n_reached, found.n_judged) == (1, 1)


def test_a_miss_without_a_reason_says_so() -> None:
    (row,) = judged((figure("x", 5),), {"x": 9}).rows
    assert "nobody knows" in row.why


@pytest.mark.parametrize(
    ("ours", "as_published"),
    [
        ({"a": 1, "b": 2, "c": 2, "d": 3}, True),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, False),  # b and c were published as equal
        ({"a": 2, "b": 2, "c": 2, "d": 3}, False),
        ({"a": 1, "b": 4, "c": 4, "d": 3}, False),
        ({"a": 1, "b": 2, "c": 2}, False),
    ],
)
def test_an_order(ours: dict[str, float], as_published: bool) -> None:
    published = tuple(figure(key, value) for key, value in zip("abcd", (10, 20, 20, 30), strict=True))
    (order,) = judged(published, ours, Order("all", ("a", "b", "c", "d"), "why")).orders
    assert order.as_published is as_published
    assert order.why == ("" if as_published else "why")


def test_an_experiment_is_checked_when_it_is_made() -> None:
    two = (figure("a", 1), figure("b", 2))
    with pytest.raises(ArgumentError, match="is not the published one"):
        experiment(two, (Order("both", ("b", "a")),))
    with pytest.raises(ArgumentError, match="not published"):
        experiment(two, (Order("both", ("a", "c")),))
    with pytest.raises(ArgumentError, match="two figures of one key"):
        experiment((figure("a", 1), figure("a", 2)))


def test_a_report_has_every_row_and_remark() -> None:
    found = judge(
        "test",
        experiment((figure("x", 1000, missing="a | machine"),), ()),
        Outcome({"x": 1500.0}, (Table("a table", ("row", "value"), (("one", 0.25),)),)),
    )
    one = Reproduced(found, 1.5)
    text = markdown_of(one)
    assert "| the x | 1,000 MB | 1,500 MB | +50.0% | missed |" in text
    assert "- missed: the x: a | machine" in text
    assert "| one | 0.25 |" in text
    assert "- not modelled: everything" in text
    document = document_of([one], 7, {"gpuscan": "test"})
    assert (document["reached"], document["judged"], document["seed"]) == (0, 1, 7)
    (row,) = document["experiments"][0]["rows"]
    assert row["difference"] == pytest.approx(0.5)


def test_names_are_checked_before_anything_runs() -> None:
    assert wanted(("batch-size", "batch-size"), with_topology=True) == ("batch-size",)
    with pytest.raises(InputError, match="unknown experiment 'batchsize'"):
        wanted(("batchsize",), with_topology=False)
    with pytest.raises(InputError, match=r"folio-sizes has a machine of its own.*batch-size"):
        wanted(("batch-size", "folio-sizes"), with_topology=True)
