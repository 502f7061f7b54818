"""A directory that keeps what came of a run: the only thing of a report that writes.

A ``--out`` directory holds::

    plan.parquet    every claimed folio with its batch, see gpuscan.store.plan_file
    ...             the tables of gpuscan.run.tables
    ledger.json     where every request went, and refusals by reason
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
from gpuscan.run.report import ledger_document
from gpuscan.run.tables import TABLE_FILES, Tables

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.store.plan_file import PatientPlanWriter

LEDGER_FILE = "ledger.json"
RUN_FILES = (*TABLE_FILES, LEDGER_FILE)
OUT_FILES = ("plan.parquet", *RUN_FILES, "report.json")
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
        tables: Tables,
        plans: Iterable[pa.RecordBatch] = (),
    ) -> None:
        """Write what is known only after the run.

        Args:
            report, document, tables: of it.
            plans: rows of plans that did not go through :attr:`plan_sink` but were kept elsewhere.

        Raises:
            RunFailedError, OSError: it cannot be written, or a plan could not be.
        """
        for rows in plans:
            self._plans.write(rows)
        self._plans.check()
        create_run_files(self._directory, report, tables)
        create_json(self._directory / OUT_FILES[-1], document)


def create_run_files(directory: Path, report: RunReport, tables: Tables) -> None:
    """Write :data:`RUN_FILES` into a directory that is being filled.

    Raises:
        OSError: the system refused it.
    """
    tables.create(directory)
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
