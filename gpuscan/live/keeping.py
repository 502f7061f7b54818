"""What is kept of a live session to be looked at: a directory of the form of ``run --out``, and a timeline.

The directory holds the tables of :mod:`gpuscan.run.out` and ``live.json``: the lines ``start`` and ``end``
that ``gpuscan live --json`` prints, and the machine. A session may be long, so memory does not grow with it:
neighbours in the series are put together (:mod:`gpuscan.live.series`), the map becomes coarser
(:mod:`gpuscan.heatmap.layer`), the timeline ends (:mod:`gpuscan.timeline.timeline`).

Files are made with the rights that the session has at its end, so that what would be refused then is refused
at the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpuscan.engine.report import RunReport, TickReport
from gpuscan.files.scratch import place_of
from gpuscan.files.writing import Contents, check_place, create_json, new_directory
from gpuscan.heatmap.space import node_names
from gpuscan.live.series import Series
from gpuscan.timeline.timeline import Timeline
from gpuscan.topology.model import Topology

if TYPE_CHECKING:
    from gpuscan.heatmap.recorder import MapRecorder

DOCUMENT = "live.json"
N_CELLS_MAX = 1 << 18
"""Of each layer of the map: gpuscan has some 100 MiB for all of it."""


def contents() -> Contents:
    """Return what a directory of ``gpuscan live --out`` holds."""
    from gpuscan.run.out import TABLES

    return Contents(DOCUMENT, TABLES)


class Keeping:
    """What is kept of one session. Leave it by an error, and nothing is kept.

    Args:
        out: the directory; None where none is wanted.
        has_page: somebody makes a page of it: without ``out`` it lies among the temporary files.
        has_timeline: keep what took how long.
        force: replace an earlier result.
        check: refuses what others will make at the end, if that cannot be made.

    Attributes:
        place: where the directory will be when :meth:`finish` returned, until this is left; None: nowhere.
        recorder, timeline: are told what happens; None: of that nothing is kept.
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
        self.place: Path | None = out
        self.recorder: MapRecorder | None = None
        self.timeline: Timeline | None = None
        self._has_page, self._has_timeline = has_page, has_timeline
        self._force, self._check = force, check
        self._outer, self._inner = ExitStack(), ExitStack()
        self._directory: Path | None = None
        self._series = Series()

    @property
    def is_wanted(self) -> bool:
        """Whether anything is kept."""
        return self.place is not None or self._has_page or self._has_timeline

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
        if self.place is not None:
            check_place(self.place, contents(), force=self._force)

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
        self.place = self._outer.enter_context(place_of(self.place, "report", is_wanted=self._has_page))
        if self.place is None:
            return
        import pyarrow.parquet  # noqa: F401 (found to be missing now, not at the end)

        from gpuscan.heatmap.recorder import MapRecorder
        from gpuscan.heatmap.waits import Waits

        self._directory = self._inner.enter_context(new_directory(self.place, contents(), force=self._force))
        self.recorder = MapRecorder(
            topology, max(1, interval_ns), n_cells_max=N_CELLS_MAX, waits=Waits(lapse_ns)
        )
        _warm_up()

    def on_tick(self, tick: TickReport) -> None:
        """Take a tick."""
        if self.is_wanted:
            self._series.add(tick)

    def finish(self, report: RunReport, document: Mapping[str, Any]) -> list[TickReport]:
        """Write all of it; the directory has its name then.

        Args:
            report: of the run, without its ticks.
            document: of ``live.json``.

        Returns:
            The ticks that were kept, :attr:`ticks`.

        Raises:
            RunFailedError: it cannot be written; nothing new is left, and an earlier result is as it was.
        """
        from gpuscan.run.out import create_tables

        ticks = self.ticks
        if self._directory is not None:
            with self._inner:
                create_tables(self._directory, dataclasses.replace(report, ticks=ticks), self.recorder)
                create_json(self._directory / DOCUMENT, document)
        return ticks

    def __enter__(self) -> Keeping:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever ended the session, it is no failure to write the directory, and is not told as one.
        with self._outer:
            self._inner.__exit__(_NotFinishedError, _NotFinishedError(), None)


class _NotFinishedError(Exception):
    """Whoever left did not come to :meth:`Keeping.finish`: nothing is kept."""


def _warm_up() -> None:
    """Load the compiled steps: compiling them must not fall into a tick."""
    import numpy as np

    from gpuscan.heatmap.layer import Counting

    counting = Counting(1 << 9, 1)
    for step in range(2):
        counting.add(step, np.arange(2))
        counting.add(step, np.zeros(1, dtype=np.int64), np.full(1, 8))
    counting.layer()
