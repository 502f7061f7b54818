"""What a run, simulated or live, has beside its document: the same in memory as it is kept in a directory.

A directory of ``run --out`` or ``live --out`` holds it as::

    series.parquet  one row per tick: the fields of gpuscan.engine.tick.TickReport, then the
                    source's metrics as ``metric.<name>`` (null where a tick has none)
    map.parquet     where and when: accesses, marks, claims and moves by page and time, see
                    gpuscan.heatmap.map
    addresses.parquet   the same by process and address, of a live session, see gpuscan.heatmap.addresses
    nodes.parquet   how full each node was, over time, and its watermarks, see gpuscan.heatmap.nodes
    waits.parquet   how long pages waited from mark to claim, see gpuscan.heatmap.waits
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.engine.report import RunReport
from gpuscan.heatmap.map import ADDRESSES_FILE, MAP_FILE, HeatMap, create_map, read_map
from gpuscan.heatmap.nodes import NODES_FILE, NodeFill, create_nodes, read_nodes
from gpuscan.heatmap.waits import WAITS_FILE, create_waits, read_waits

if TYPE_CHECKING:
    from gpuscan.heatmap.addresses import AddressRecorder
    from gpuscan.heatmap.recorder import MapRecorder

SERIES_FILE = "series.parquet"
TABLE_FILES = (SERIES_FILE, MAP_FILE, ADDRESSES_FILE, NODES_FILE, WAITS_FILE)
_SERIES_ROW_BYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What a run has beside its document.

    Attributes:
        series: values of each tick, by name.
        heat: where and when; None where nobody counted.
        by_address: the same by process and address; None where nobody counted, or nothing was seen.
        nodes: how full each was, by nid.
        waits: nanoseconds from mark to claim, and by how many pages.
    """

    series: Mapping[str, list[Any]]
    heat: HeatMap | None
    by_address: HeatMap | None
    nodes: Mapping[int, NodeFill]
    waits: Mapping[int, int]

    @classmethod
    def of(
        cls, report: RunReport, recorder: MapRecorder | None, addresses: AddressRecorder | None = None
    ) -> Tables:
        """Return those of a run that has ended, and of what was told of it."""
        if recorder is None:
            return cls(report.columns(), None, None, {}, {})
        end_ns = sum(tick.duration_ns for tick in report.ticks)
        by_address = None if addresses is None else addresses.map(end_ns)
        return cls(report.columns(), recorder.map(end_ns), by_address, recorder.nodes, recorder.waits.found)

    def create(self, directory: Path) -> None:
        """Write them into a directory that is being filled; a map as fine as its file may be.

        Raises:
            OSError: the system refused it.
        """
        import pyarrow as pa

        from gpuscan.files.parquet import create_table

        create_table(directory / SERIES_FILE, pa.table(dict(self.series)))
        if self.heat is not None:
            create_map(directory / MAP_FILE, self.heat)
            create_nodes(directory / NODES_FILE, self.nodes)
            create_waits(directory / WAITS_FILE, self.waits)
        if self.by_address is not None:
            create_map(directory / ADDRESSES_FILE, self.by_address)


def read_tables(directory: Path) -> Tables:
    """Return what a directory holds; a file that an earlier gpuscan did not write is as if nobody counted.

    Raises:
        InputError: one cannot be read.
    """
    from gpuscan.files.parquet import read_table

    table = read_table(directory / SERIES_FILE, None, _SERIES_ROW_BYTES, "series")
    paths = {name: directory / name for name in TABLE_FILES}
    return Tables(
        {name: table[name].to_pylist() for name in table.column_names},
        read_map(paths[MAP_FILE]) if paths[MAP_FILE].exists() else None,
        read_map(paths[ADDRESSES_FILE]) if paths[ADDRESSES_FILE].exists() else None,
        read_nodes(paths[NODES_FILE]) if paths[NODES_FILE].exists() else {},
        read_waits(paths[WAITS_FILE]) if paths[WAITS_FILE].exists() else {},
    )
