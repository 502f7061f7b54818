"""What the closed loop's moves are worth."""

from __future__ import annotations

from gpuscan.base.units import format_count
from gpuscan.compare.columns.contract import Column, Columns, Figures, Value, ended, known


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
            title="served by fast memory",
            explain="Of all accesses in the last tenth of the run, the share that found its page on the "
            "fastest tier or, where there is one tier, on the node of the CPU.",
            loop="closed",
            how="counted",
            unit="share",
            better="larger",
            value=_fast,
        ),
        Column(
            key="moved",
            title="folios moved",
            explain="How many folios (pages, or huge pages as one) arrived on another node, those included "
            "that move where they fault.",
            loop="closed",
            how="counted",
            unit="count",
            better="larger",
            value=_moved,
        ),
        Column(
            key="rounds",
            title="migrate_pages() rounds",
            explain="How often a group of folios was unmapped and copied together; each round flushes the "
            "TLBs of other CPUs.",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=lambda f: Value(f.closed.n_rounds),
        ),
        Column(
            key="wrong_node",
            title="sent to the wrong node",
            explain="Folios handed over for another node than the one that was asked for, or for a node that "
            "is not there, whether or not they arrived.",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=_wrong_node,
        ),
        Column(
            key="lost",
            title="requests lost",
            explain="Folios that should have moved and did not: the design took their mark and could not "
            "move them, or had no room for it, and asks nobody again.",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=lambda f: ended(f.endings.lost),
        ),
        Column(
            key="overtaken",
            title="marks overtaken",
            explain="Marks of folios that were marked again for another node before they moved: the folio "
            "goes where the newer mark says.",
            loop="closed",
            how="counted",
            unit="count",
            better="neither",
            value=lambda f: ended(f.endings.overtaken),
        ),
        Column(
            key="without_need",
            title="marks without need",
            explain="Marks that ended because nothing had to be done: the folio is where it was asked to go, "
            "or is gone.",
            loop="closed",
            how="counted",
            unit="count",
            better="neither",
            value=lambda f: ended(f.endings.without_need),
        ),
        Column(
            key="examined_per_promotion",
            title="pages examined per move",
            explain="How many pages the walks looked at for each folio that they moved.",
            loop="closed",
            how="counted",
            unit="count",
            better="smaller",
            value=_examined_per_promotion,
        ),
        Column(
            key="never_again",
            title="moved, never used again",
            explain="Of the folios that were moved, the share that nobody touched between the move and the "
            "end: work for nothing.",
            loop="closed",
            how="counted",
            unit="share",
            better="smaller",
            value=_unused,
        ),
    ),
)
