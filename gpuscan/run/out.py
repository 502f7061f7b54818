"""A directory that keeps what came of a run: the only thing of a report that writes.

A ``--out`` directory holds::

    plan.parquet    every claimed folio with its batch, see gpuscan.store.plan_file
    series.parquet  one row per tick: the fields of gpuscan.engine.tick.TickReport, then the
                    source's metrics as ``metric.<name>`` (null where a tick has none)
    ledger.json     where every request went, and refusals by reason
    map.parquet     where and when: accesses, marks, claims and moves by page and time, see
                    gpuscan.heatmap.map
    nodes.parquet   how full each node was, over time, and its watermarks, see gpuscan.heatmap.nodes
    waits.parquet   how long pages waited from mark to claim, see gpuscan.heatmap.waits
    report.json     the document that ``gpuscan run --json`` prints

All but the first and the last are those of ``gpuscan live --out``, too (:mod:`gpuscan.live.keeping`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import PlanSink, RunReport
from gpuscan.files.writing import Contents, create_json, new_directory
from gpuscan.heatmap.map import MAP_FILE, create_map
from gpuscan.heatmap.nodes import NODES_FILE, create_nodes
from gpuscan.heatmap.waits import WAITS_FILE, create_waits
from gpuscan.run.report import ledger_document

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.heatmap.recorder import MapRecorder
    from gpuscan.store.plan_file import PatientPlanWriter

SERIES_FILE, LEDGER_FILE = "series.parquet", "ledger.json"
TABLES = (SERIES_FILE, LEDGER_FILE, MAP_FILE, NODES_FILE, WAITS_FILE)
OUT_FILES = ("plan.parquet", *TABLES, "report.json")
_CONTENTS = Contents(OUT_FILES[-1], OUT_FILES[:-1])
"""Files of a ``--out`` directory."""


class OutDirectory:
    """A ``--out`` directory under way, see :func:`open_out`."""

    def __init__(self, directory: Path, plans: PatientPlanWriter) -> None:
        self._directory = directory
        self._plans = plans
        self.plan_sink: PlanSink = plans.append

    def finish(
        self,
        report: RunReport,
        document: Mapping[str, Any],
        plans: Iterable[pa.RecordBatch] = (),
        recorder: MapRecorder | None = None,
    ) -> None:
        """Write what is known only after the run.

        Args:
            report, document: of it.
            plans: rows of plans that did not go through :attr:`plan_sink` but were kept elsewhere.
            recorder: what was told of it.

        Raises:
            RunFailedError, OSError: it cannot be written, or a plan could not be.
        """
        for rows in plans:
            self._plans.write(rows)
        self._plans.check()
        create_tables(self._directory, report, recorder)
        create_json(self._directory / OUT_FILES[-1], document)


def create_tables(directory: Path, report: RunReport, recorder: MapRecorder | None) -> None:
    """Write :data:`TABLES` into a directory that is being filled; those of a recorder where there is one.

    Raises:
        OSError: the system refused it.
    """
    from gpuscan.files.parquet import create_table

    create_table(directory / SERIES_FILE, report.to_arrow())
    if recorder is not None:
        create_map(directory / MAP_FILE, recorder.map(sum(tick.duration_ns for tick in report.ticks)))
        create_nodes(directory / NODES_FILE, recorder.nodes)
        create_waits(directory / WAITS_FILE, recorder.waits.found)
    create_json(directory / LEDGER_FILE, ledger_document(report))


@contextmanager
def open_out(path: Path, policy: Policy, *, force: bool = False) -> Iterator[OutDirectory]:
    """Yield a directory to be filled during a run; it appears as ``path`` when the block ends well.

    Args:
        path: where; its parent must be there.
        policy: of the run; its record format and batch size go into the plan file.
        force: replace an earlier run's directory.

    Raises:
        InputError: ``path`` holds an earlier run and ``force`` is not set, or something that
            gpuscan did not write; nothing was touched.
        RunFailedError: a disk filled, for example; nothing was left there.
    """
    from gpuscan.store.plan_file import PatientPlanWriter, PlanWriter

    with (
        new_directory(path, _CONTENTS, force=force) as directory,
        PlanWriter(directory / OUT_FILES[0], policy.record_format, policy.batch_pages) as plans,
    ):
        yield OutDirectory(directory, PatientPlanWriter(plans))
