"""DuckDB: SQL over the NumPy array of records, in place."""

from __future__ import annotations

from gpuscan.bench.peers.answer import Answer, Question, answer_of_lists
from gpuscan.bench.peers.contract import Peer, PeerKind


class DuckdbSql(Peer):
    """Filter, group by target, ``list(pfn ORDER BY pfn)``; the result is fetched as NumPy arrays."""

    def __init__(self, question: Question) -> None:
        import duckdb

        super().__init__(question)
        fmt = question.fmt
        target = f"(record >> {fmt.nid.shift}) & {fmt.nid.max}" if fmt.has_nid else f"{question.fixed_target}"
        # A NumPy array has no row numbers in DuckDB. Of row_number(), a second column of PFNs and this
        # join, this one is the fastest up to a density of 1e-3, and it needs no memory.
        self.sql = (
            f"SELECT {target} AS target, list(pfn ORDER BY pfn) AS pfns "
            f"FROM (SELECT record, range AS pfn FROM records POSITIONAL JOIN range({question.n_pages})) "
            f"WHERE record & {fmt.ready.mask} != 0 GROUP BY 1"
        )
        self.connection = duckdb.connect()
        self.connection.register("records", {"record": question.records})

    def run(self) -> object:
        """Return one row per target as an Arrow table: ``target``, ``pfns`` (a list)."""
        return self.connection.sql(self.sql).to_arrow_table()

    def answer(self) -> Answer:
        """Return the same as an answer."""
        table = self.connection.sql(self.sql).to_arrow_table()
        targets, lists = table["target"].to_pylist(), table["pfns"].combine_chunks()
        groups = {target: lists[row].values.to_numpy() for row, target in enumerate(targets)}
        return answer_of_lists(groups, self.question.n_targets)


PEER = PeerKind(
    about="SQL: records POSITIONAL JOIN range, WHERE, GROUP BY, list(pfn ORDER BY pfn)",
    make=DuckdbSql,
    imports=("duckdb",),
    extra="bench",
    label="duckdb",
    style={"color": "#CC79A7", "marker": "D"},
)
