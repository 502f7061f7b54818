"""Polars: a lazy query that filters on the record and groups by target into lists of PFNs.

The PFN is a column of the frame, made before anything is timed. Row numbers made by the query
(``with_row_index``) take it up to 1.3 times as long, ``arg_where`` more (Polars 2.1, 2**28 records).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuscan.bench.peers.answer import Answer, Question, answer_of_lists
from gpuscan.bench.peers.contract import Peer

if TYPE_CHECKING:
    import polars as pl


class PolarsLazy(Peer):
    """The query. Targets come in any order, their PFNs ascending.

    Args:
        question: on which records.
        engine: of Polars.
    """

    def __init__(self, question: Question, engine: Literal["in-memory", "streaming"]) -> None:
        import polars as pl

        super().__init__(question)
        self.engine = engine
        fmt, record = question.fmt, pl.col("record")
        # Polars has no shift of integers; a division by a power of two after the filter costs nothing.
        target = (
            (record // (1 << fmt.nid.shift)) & fmt.nid.max if fmt.has_nid else pl.lit(question.fixed_target)
        )
        self.query = (
            pl.DataFrame({"record": question.records, "pfn": np.arange(question.n_pages, dtype=np.uint32)})
            .lazy()
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
