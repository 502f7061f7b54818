"""What a run, simulated or live, makes to be looked at, beside what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.described import Option, described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpuscan.base.errors import GpuscanError
    from gpuscan.cli.output import Output
    from gpuscan.engine.report import TickReport
    from gpuscan.run.tables import Tables
    from gpuscan.timeline.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Views:
    """What a run makes to be looked at, beside what it keeps."""

    page: Path | None = described(
        None,
        Option("Make one page of the result, for a browser; needs [report].", ("--report",), metavar="FILE"),
    )

    trace_events: Path | None = described(
        None, Option("Keep a timeline (Trace Event Format, gzip) for Perfetto.", metavar="FILE")
    )

    def places(self) -> dict[str, str]:
        """Return where each is made that is wanted, by its name, as :meth:`else_of` takes it."""
        return {
            each.name: str(place.absolute())
            for each in fields(self)
            if (place := getattr(self, each.name)) is not None
        }

    def else_of(self, places: Mapping[str, str]) -> tuple[Views, tuple[str, ...]]:
        """Return these, and where one is not wanted, what was wanted before and can be made on this machine.

        Args:
            places: what was wanted, maybe on another machine, as :meth:`places` returned it.

        Returns:
            The views, and a sentence on each that cannot be made here.
        """
        from gpuscan.base.errors import InputError

        found, left_out = self, []
        for each in fields(self):
            if getattr(self, each.name) is not None or each.name not in places:
                continue
            path = Path(places[each.name])
            try:
                replace(Views(), **{each.name: path}).check(force=True)  # what is there is asked of all
            except InputError as error:
                left_out.append(f"{path}, which the run was to make, is left out: {error}")
            else:
                found = replace(found, **{each.name: path})
        return found, tuple(left_out)

    def check(self, force: bool, *others: Path | None) -> None:
        """Check that they can be made, before the run.

        Args:
            force: replace earlier ones.
            others: where else something is kept.

        Raises:
            InputError: one cannot, or two of what is kept would have one place.
        """
        from gpuscan.base.errors import InputError
        from gpuscan.cli.pages import check_new

        places = [*others, self.page, self.trace_events]
        kept = [place.resolve() for place in places if place is not None]
        if len(set(kept)) < len(kept):
            twice = next(place for place in kept if kept.count(place) > 1)
            raise InputError(f"two results would be kept at {twice}; give each a place of its own")
        if self.page is not None:
            from gpuscan.report.page import require_bokeh

            require_bokeh()
        for path in (self.page, self.trace_events):
            if path is not None:
                check_new(path, force=force)

    def make(
        self,
        document: Mapping[str, Any],
        tables: Tables | None,
        result: Path | None,
        made_by: str,
        output: Output,
        *,
        timeline: Timeline | None,
        ticks: Sequence[TickReport],
    ) -> GpuscanError | None:
        """Make all of them that can be made; return why one could not.

        Args:
            document, tables: of the run; None: nobody counted, so there is no page.
            result: where both are kept, None: nowhere.
            made_by: the command line.
            output: where to say what was made coarser.
            timeline: what was told of the run.
            ticks: of the run.
        """
        from gpuscan.base.errors import GpuscanError

        failure: GpuscanError | None = None
        try:
            if self.page is not None and tables is not None:
                _make_page(self.page, document, tables, result, made_by, output)
        except GpuscanError as error:
            failure = error
        try:
            if self.trace_events is not None and timeline is not None:
                timeline.write(self.trace_events, ticks)
        except GpuscanError as error:
            failure = failure or error
        return failure

    def say(self, output: Output) -> None:
        """Say where they are."""
        if self.page is not None:
            output.note(f"the page is {self.page}; open it in a browser")
        if self.trace_events is not None:
            output.note(f"the timeline is {self.trace_events}; open it in https://ui.perfetto.dev")


def _make_page(
    path: Path, document: Mapping[str, Any], tables: Tables, result: Path | None, made_by: str, output: Output
) -> None:
    from gpuscan.cli.pages import write_page
    from gpuscan.report.catalogue import page_of_run

    _, notes = write_page(page_of_run(document, tables), path, result, made_by=made_by)
    for note in notes:
        output.note(f"gpuscan: note: {note}")
