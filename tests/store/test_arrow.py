"""Plans, ledgers and runs as tables of Arrow, taken by others as they are."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gpuscan.engine.ledger import Ledger
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.store.single import Store
from gpuscan.topology.resolve import resolve_topology


@pytest.fixture
def plan():
    with Store(resolve_topology("two-socket-cxl", 1 << 30), "rfc", CpuBackend(1)) as store:
        flats = np.arange(0, store.page_map.n_pages, 7, dtype=np.int64)
        store.load_pages(store.page_map.present_bits())
        nids = (store.page_map.nid_of_flat(flats) + 1) % 4
        store.request(store.page_map.pfn_of_flat(flats), nids.astype(np.int32))
        yield store.scan()


def test_a_plan_is_a_table_of_its_folios(plan) -> None:
    table = pa.table(plan)
    assert table.column_names == ["target_nid", "pfn", "n_pages", "record"]
    assert len(table) == len(plan) > 100
    assert table["pfn"].to_numpy().tolist() == plan.pfn.tolist()
    assert table["target_nid"].to_numpy().tolist() == plan.target_of_folio().tolist()
    assert table["record"].type == pa.uint32()
    # Arrow points at the plan's own memory.
    assert table["pfn"].chunk(0).buffers()[1].address == plan.pfn.ctypes.data


def test_polars_reads_a_plan_in_one_line(plan) -> None:
    by_target = pl.DataFrame(plan).group_by("target_nid").len().sort("target_nid")
    assert by_target["len"].to_list() == np.diff(plan.offsets)[plan.targets].tolist()


def test_a_ledger_has_a_row_for_each_number_and_reason() -> None:
    ledger = Ledger(requested=9, migrated=4, superseded=1)
    ledger.dropped.update({"freed": 3})
    rows = pa.table(ledger).to_pylist()
    assert {"what": "requested", "reason": None, "n": 9} in rows
    assert {"what": "dropped", "reason": "freed", "n": 3} in rows
    assert (
        sum(row["n"] for row in rows if row["what"] in ("migrated", "superseded", "dropped", "pending")) == 9
    )
