"""Polars: a lazy query that filters on the record and groups by target into lists of PFNs."""

from __future__ import annotations

from typing import Literal

import polars as pl

from gpuscan.bench.peers import Peer
from gpuscan.bench.peers.answer import Answer, Question, answer_of_lists


class PolarsLazy(Peer):
    """The query, on the engine that a subclass names. Targets come in any order, their PFNs ascending."""

    engine: Literal["in-memory", "streaming"] = "in-memory"

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        fmt, record = question.fmt, pl.col("record")
        # Polars has no shift of integers; a division by a power of two after the filter costs nothing.
        target = (
            (record // (1 << fmt.nid.shift)) & fmt.nid.max if fmt.has_nid else pl.lit(question.fixed_target)
        )
        self.query = (
            pl.LazyFrame({"record": question.records})
            .with_row_index("pfn")
            .filter((record & fmt.ready.mask) != 0)
            .group_by(target.alias("target"))
            .agg("pfn")
        )

    def run(self) -> pl.DataFrame:
        """Return one row per target: ``target``, ``pfn`` (a list)."""
        return self.query.collect(engine=self.engine)

    def answer(self) -> Answer:
        """Return the same as an answer."""
        rows = self.run()
        targets, lists = rows["target"].to_list(), rows["pfn"]
        groups = {target: lists[row].to_numpy() for row, target in enumerate(targets)}
        return answer_of_lists(groups, self.question.n_targets)


class PolarsInMemory(PolarsLazy):
    """The query on Polars' default engine."""

    about = "lazy: with_row_index, filter, group_by; in-memory engine"


class PolarsStreaming(PolarsLazy):
    """The query on Polars' streaming engine."""

    engine = "streaming"
    about = "lazy: with_row_index, filter, group_by; streaming engine"
