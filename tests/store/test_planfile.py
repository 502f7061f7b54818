"""Plan files: what is written comes back, and what is not one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError
from gpuscan.store.plan_file import PlanWriter, read_plans
from plans import make_plan


def write_two_plans(path: Path) -> None:
    first, second = make_plan([[0] * 3, [9]], with_order=True), make_plan([[], [0] * 5], with_order=False)
    with PlanWriter(path, "rfc", 2) as writer:
        writer.append(0, first, first.batches(2))
        writer.append(4, second, second.batches(2))


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    write_two_plans(path)
    rows = read_plans(path).to_pydict()
    assert rows["tick"] == [0] * 4 + [4] * 5
    assert rows["batch"] == [0, 0, 1, 2, 3, 3, 4, 4, 5]
    assert rows["target_nid"] == [0, 0, 0, 1] + [1] * 5
    assert rows["pfn"] == [1000, 1001, 1002, 1003, 1000, 1001, 1002, 1003, 1004]
    assert rows["n_pages"] == [1, 1, 1, 512] + [1] * 5
    metadata = read_plans(path).schema.metadata
    assert metadata[b"gpuscan.record_format"] == b"rfc"


def test_a_plan_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    write_two_plans(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable plan file"):
        read_plans(path)


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"pfn": np.arange(3)}), foreign)
    with pytest.raises(InputError, match="not written by gpuscan"):
        read_plans(foreign)
    path = tmp_path / "plan.parquet"
    write_two_plans(path)
    table = pq.read_table(path)
    newer = tmp_path / "newer.parquet"
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"gpuscan.schema": b"2"}), newer)
    with pytest.raises(InputError, match="schema 2"):
        read_plans(newer)
