"""What the closed loop's moves are worth."""

from __future__ import annotations

from gpuscan.base.units import format_count
from gpuscan.compare.columns.contract import Column, Columns, Figures, Value, known, lost_of


def _fast(figures: Figures) -> Value:
    return known(figures.closed.fast_after, "nothing accessed")


def _moved(figures: Figures) -> Value:
    closed = figures.closed
    remark = f"({format_count(closed.moved_at_fault)} at the fault)" if closed.moved_at_fault else ""
    return Value(float(closed.migrated + closed.moved_at_fault), remark=remark)


def _wrong_node(figures: Figures) -> Value:
    if not figures.closed.wrong_node_known:
        return Value(why_not="not counted: records keep no node")
    # A record of ours says where its page goes, and what it said before is counted as lost.
    remark = "(by construction)" if figures.declared.runs_on_a_store else ""
    return Value(float(figures.closed.wrong_node), remark=remark)


def _examined_per_promotion(figures: Figures) -> Value:
    closed = figures.closed
    if not closed.migrated:
        return Value(why_not="found none to move")
    if closed.unit == "entries":
        return Value(why_not=f"no walk, {closed.examined / closed.migrated:.2f} entries")
    return Value(closed.examined / closed.migrated)


def _unused(figures: Figures) -> Value:
    closed = figures.closed
    moved = closed.moved_used + closed.moved_unused
    if not moved:
        return Value(why_not="not known of a trace" if closed.migrated else "moved none")
    return Value(closed.moved_unused / moved)


COLUMNS = Columns(
    50,
    (
        Column(
            key="fast_share",
            title="accesses served by fast memory",
            loop="closed",
            how="counted",
            unit="share",
            better="larger",
            value=_fast,
        ),
        Column(
            key="moved",
            title="folios moved",
            loop="closed",
            how="counted",
            unit="count",
            better="larger",
            value=_moved,
        ),
        Column(
            key="rounds",
            title="migrate_pages() rounds",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=lambda f: Value(f.closed.n_rounds),
        ),
        Column(
            key="wrong_node",
            title="sent to the wrong node",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=_wrong_node,
        ),
        Column(
            key="lost",
            title="requests lost",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=lambda f: lost_of(f.closed.lost),
        ),
        Column(
            key="examined_per_promotion",
            title="pages examined per promotion",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=_examined_per_promotion,
        ),
        Column(
            key="never_again",
            title="promotions never accessed again",
            loop="closed",
            how="counted",
            unit="share",
            better="smaller",
            value=_unused,
        ),
    ),
)
