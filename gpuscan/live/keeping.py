"""What is kept of a live session to be looked at: a directory of the form of ``run --out``, and a timeline.

The directory holds the tables of :mod:`gpuscan.run.tables`, the ledger and ``live.json``: the lines
``start`` and ``end`` that ``gpuscan live --json`` prints, and the machine. A session may be long, so memory
does not grow with it: neighbours in the series are put together (:mod:`gpuscan.live.series`), the map becomes
coarser (:mod:`gpuscan.heatmap.counting`), the timeline ends (:mod:`gpuscan.timeline.timeline`).

Files are made with the rights that the session has at its end, so that what would be refused then is refused
at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpuscan.engine.report import RunReport, TickReport
from gpuscan.files.writing import Contents, check_place, create_json, new_directory
from gpuscan.heatmap.space import node_names
from gpuscan.live.series import Series
from gpuscan.timeline.timeline import Timeline
from gpuscan.topology.model import Topology

if TYPE_CHECKING:
    from gpuscan.heatmap.addresses import AddressRecorder
    from gpuscan.heatmap.recorder import MapRecorder
    from gpuscan.live.witness import SessionWitness
    from gpuscan.run.tables import Tables

DOCUMENT = "live.json"
N_CELLS_MAX = 1 << 18
"""Of each layer of the map: gpuscan has some 100 MiB for all of it."""


def contents() -> Contents:
    """Return what a directory of ``gpuscan live --out`` holds."""
    from gpuscan.run.out import RUN_FILES

    return Contents(DOCUMENT, RUN_FILES)


class Keeping:
    """What is kept of one session. Leave it by an error, and nothing is kept.

    Args:
        out: the directory; None where none is wanted.
        has_page: somebody makes a page of it, of what is in memory at its end.
        has_timeline: keep what took how long.
        force: replace an earlier result.
        check: refuses what others will make at the end, if that cannot be made.

    Attributes:
        recorder, addresses: count what happened to page frames, and to addresses of processes.
        witness, timeline: are told what happens; None: of that nothing is kept.
    """

    def __init__(
        self,
        out: Path | None = None,
        *,
        has_page: bool = False,
        has_timeline: bool = False,
        force: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.recorder: MapRecorder | None = None
        self.addresses: AddressRecorder | None = None
        self.witness: SessionWitness | None = None
        self.timeline: Timeline | None = None
        self._out, self._has_page, self._has_timeline = out, has_page, has_timeline
        self._force, self._check = force, check
        self._filling = ExitStack()
        self._directory: Path | None = None
        self._series = Series()

    @property
    def is_wanted(self) -> bool:
        """Whether anything is kept."""
        return self._out is not None or self._has_page or self._has_timeline

    @property
    def ticks(self) -> list[TickReport]:
        """What is kept of the ticks until now, several of them in one where there were many."""
        return self._series.rows()

    def check(self) -> None:
        """Refuse what :meth:`begin` would refuse, with the rights of now.

        Raises:
            InputError: see there.
        """
        self._check()
        if self._out is not None:
            check_place(self._out, contents(), force=self._force)

    def begin(self, topology: Topology, interval_ns: int, lapse_ns: int) -> None:
        """Make the files, with the rights that are left.

        Args:
            topology: of the machine.
            interval_ns: the finest step of the map's time.
            lapse_ns: when a page that was not marked again waits no more.

        Raises:
            InputError: they cannot be made there, or what is there not replaced.
            RunFailedError: the system refused it.
        """
        if not self.is_wanted:
            return
        self.check()
        if self._has_timeline:
            self.timeline = Timeline(node_names(topology))
        if self._out is None and not self._has_page:
            return
        from gpuscan.heatmap.addresses import AddressRecorder
        from gpuscan.heatmap.recorder import MapRecorder
        from gpuscan.heatmap.waits import Waits
        from gpuscan.live.witness import SessionWitness

        step_ns = max(1, interval_ns)

        if self._out is not None:
            import pyarrow.parquet  # noqa: F401 (found to be missing now, not at the end)

            new = new_directory(self._out, contents(), force=self._force)
            self._directory = self._filling.enter_context(new)
        self.recorder = MapRecorder(topology, step_ns, n_cells_max=N_CELLS_MAX, waits=Waits(lapse_ns))
        self.addresses = AddressRecorder(topology.name, step_ns, N_CELLS_MAX, topology.page_map.pfn_of_flat)
        self.witness = SessionWitness(self.recorder, self.addresses)
        _warm_up()

    def on_tick(self, tick: TickReport) -> None:
        """Take a tick."""
        if self.is_wanted:
            self._series.add(tick)

    def tables(self, report: RunReport) -> Tables | None:
        """Return what there is beside the document of a session that has ended; None where nobody counted.

        Args:
            report: of the session, with the ticks that were kept.
        """
        if self.recorder is None:
            return None
        from gpuscan.run.tables import Tables

        return Tables.of(report, self.recorder, self.addresses)

    def finish(self, report: RunReport, document: Mapping[str, Any], tables: Tables | None) -> None:
        """Write all of it; the directory has its name then.

        Args:
            report: of the session, with the ticks that were kept.
            document: of ``live.json``.
            tables: what :meth:`tables` returned.

        Raises:
            RunFailedError: it cannot be written; nothing new is left, and an earlier result is as it was.
        """
        from gpuscan.run.out import create_run_files

        if self._directory is not None and tables is not None:
            with self._filling:
                create_run_files(self._directory, report, tables)
                create_json(self._directory / DOCUMENT, document)

    def __enter__(self) -> Keeping:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever ended the session, it is no failure to write the directory, and is not told as one.
        self._filling.__exit__(_NotFinishedError, _NotFinishedError(), None)


class _NotFinishedError(Exception):
    """Whoever left did not come to :meth:`Keeping.finish`: nothing is kept."""


def _warm_up() -> None:
    """Load the compiled steps: compiling them must not fall into a tick."""
    import numpy as np

    from gpuscan.heatmap.counting import Counting

    counting = Counting(1 << 9, 1)
    for step in range(2):
        counting.add(step, np.arange(2))
        counting.add(step, np.zeros(1, dtype=np.int64), np.full(1, 8))
    counting.layer()
