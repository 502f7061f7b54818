"""The commands that write what is made of results (pages, pictures, tables), sessions and histories."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq

from faults.command import (
    RUN,
    Command,
    as_command,
    earlier,
    nothing,
    quietly,
    room_for_temporary_files,
    whole_or_earlier,
)
from gpuscan.base.errors import RunFailedError

TRACE = Path(__file__).parents[1] / "data" / "traces" / "perf-cpu-time-weight-phys.txt"


def result(directory: Path) -> None:
    """Find a result."""
    assert quietly(*RUN, "--out", directory / "out") == 0


def page_is_whole(path: Path) -> str:
    """Say what is wrong with a page."""
    text = path.read_text()
    whole = text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    return "" if whole else "half a page"


def report(directory: Path, *options: str) -> int:
    """Make a page of the result."""
    return quietly("report", directory / "out", "-o", directory / "page.html", *options)


def result_with_a_page(directory: Path) -> int:
    """Find a result and a page of it."""
    result(directory)
    return report(directory)


DRAWN: list[bytes] = []


def picture_is_whole(path: Path) -> str:
    """Say what is wrong with a picture."""
    return "" if path.read_bytes().endswith(b"IEND\xaeB`\x82") else "half a picture"


def heatmap(directory: Path, *options: str) -> int:
    """Keep a picture of the result's map; the drawing is not what this is about, and takes a second."""
    from matplotlib.figure import Figure

    if not DRAWN:
        drawn = BytesIO()
        Figure().savefig(drawn, format="png")
        DRAWN.append(drawn.getvalue())
    with mock.patch.object(Figure, "savefig", lambda _, file, **__: file.write(DRAWN[0])):
        return quietly("heatmap", directory / "out", "--png", directory / "map.png", *options)


def trace(directory: Path) -> None:
    """Find a trace."""
    shutil.copy(TRACE, directory / "trace.txt")


def convert(directory: Path, *options: str) -> int:
    """Make a table of it."""
    return quietly("convert", directory / "trace.txt", directory / "trace.parquet", *options)


def table_is_whole(path: Path) -> str:
    """Say what is wrong with the table."""
    try:
        assert len(pq.read_table(path)) == 4
    except Exception as error:
        return f"half a table: {error!r}"
    return ""


@contextmanager
def temporary_files_in(directory: Path) -> Iterator[None]:
    """Have temporary files where they are seen."""
    with mock.patch("tempfile.tempdir", str(directory / "tmp")):
        yield


def left_of_temporary_files(directory: Path) -> list[str]:
    """Return what is among the temporary files at the end."""
    return sorted(entry.name for entry in (directory / "tmp").iterdir())


def run_with_views(directory: Path, *options: str) -> int:
    """Run, and make a page and a timeline of it at once."""
    page, events = directory / "page.html", directory / "events.json.gz"
    with temporary_files_in(directory):
        return quietly(*RUN, "--report", page, "--trace-events", events, *options)


def views_wrong(directory: Path, state: str) -> str:
    """Say what is wrong with the two: each is whole or not there, and one is made where the other is not."""
    page, events = directory / "page.html", directory / "events.json.gz"
    if state == "whole" and not (page.exists() and events.exists()):
        return "there is no page, or no timeline"
    try:
        if events.exists():
            json.loads(gzip.decompress(events.read_bytes()))
    except Exception as error:
        return f"half a timeline: {error!r}"
    return page_is_whole(page) if page.exists() else ""


REPRODUCE = ("reproduce", "folio-sizes", "--no-plots", "-q")


def reproduce(directory: Path, *options: str) -> int:
    """Do what was published, once more."""
    return quietly(*REPRODUCE, "--out", directory / "r", *options)


def reproduce_is_whole(path: Path) -> str:
    """Say what is wrong with it."""
    try:
        assert sorted(entry.name for entry in path.iterdir()) == ["reproduce.json", "reproduce.md"]
        json.loads((path / "reproduce.json").read_text())
    except Exception as error:
        return f"half a result: {error!r}"
    return ""


def live_out(directory: Path) -> int:
    """Keep a session on the simulated kernel."""
    from gpuscan.live.document import kept_document, start_document
    from gpuscan.live.keeping import Keeping
    from gpuscan.live.session import LiveRequest, LiveSession
    from livesim.machine import Machine
    from livesim.scenario import scenario
    from livesim.system import SimulatedSystem

    quiet = replace(
        scenario(0), source="soft-dirty", selection="pids", n_pages=(60,), events=(), demote=False
    )

    def kept() -> None:
        machine = Machine(quiet)
        system = SimulatedSystem(machine)
        request = LiveRequest(
            pids=tuple(machine.world.processes),
            monitor=quiet.source,
            for_ns=400_000_000,
            device="cpu",
            n_threads=1,
        )
        started: dict[str, Any] = {}
        with Keeping(directory / "live", has_timeline=True, force=True) as keeping:
            with LiveSession(request, system, keeping=keeping) as session:
                run = session.run(lambda: started.update(start_document(session, 0.0)), lambda *_: None)
            run = replace(run, ticks=keeping.ticks)
            keeping.finish(run, kept_document(session, run, started, "gpuscan live"), keeping.tables(run))
        system.end()

    return as_command(kept)


def live_is_whole(path: Path) -> str:
    """Say what is wrong with a session that was kept."""
    tables, documents = ("addresses", "map", "nodes", "series", "waits"), ("ledger", "live")
    names = {*(f"{name}.parquet" for name in tables), *(f"{name}.json" for name in documents)}
    try:
        assert {entry.name for entry in path.iterdir()} == names
        for name in tables:
            pq.read_table(path / f"{name}.parquet")
        for name in documents:
            json.loads((path / f"{name}.json").read_text())
    except Exception as error:
        return f"half a session: {error!r}"
    return ""


def service_install(directory: Path) -> int:
    """Install the service."""
    from gpuscan.service.install import install

    def installed() -> None:
        install(directory)

    return as_command(installed)


def install_wrong(directory: Path, state: str) -> str:
    """Say what is wrong with what was installed: each file is whole or not there."""
    from gpuscan.service.install import CONFIG, UNIT, shipped, unit_text

    for path, text in ((CONFIG, shipped("example.toml")), (UNIT, unit_text(Path("/") / CONFIG))):
        place = directory / path
        if place.exists() and (place.read_text(), place.stat().st_mode & 0o777) != (text, 0o644):
            return f"{path} is not whole"
        if state == "whole" and not place.exists():
            return f"{path} is not there"
    return ""


def left_in_etc(directory: Path) -> list[str]:
    """Return what is in its places and should not be."""
    from gpuscan.service.install import CONFIG, UNIT

    places = [directory / path.parent for path in (CONFIG, UNIT)]
    found = {entry.name for place in places if place.exists() for entry in place.iterdir()}
    return sorted(found - {CONFIG.name, UNIT.name})


N_NOTES, N_FLUSHES = 5, 4


def history(directory: Path) -> int:
    """Keep the history of a service that notes and flushes."""
    from gpuscan.history.database import History

    def kept() -> None:
        kept = History(directory / "history.sqlite", 4 << 20)
        for flush in range(N_FLUSHES):
            for i in range(N_NOTES):
                kept.note("moved", "db", {"i": flush * N_NOTES + i})
            kept.flush()
        kept.close()
        if kept.problem:
            raise RunFailedError(kept.problem)

    return as_command(kept)


def history_wrong(directory: Path, state: str) -> str:
    """Say what is wrong with a history: it is read, and has what was flushed, in order, none of it twice."""
    from gpuscan.history.reading import read_notes

    seen = directory.parent / "seen"  # reading alone makes a log, which stays
    shutil.rmtree(seen, ignore_errors=True)
    shutil.copytree(directory, seen)
    path = seen / "history.sqlite"
    if not path.exists() or not path.stat().st_size:
        return "there is no history" if state == "whole" else ""
    if state != "whole" and not _has_a_table(path):
        return ""
    try:
        notes = [note["i"] for note in read_notes(path, 0)]
    except Exception as error:
        return f"it cannot be read: {error!r}"
    runs, rest = divmod(len(notes), N_NOTES * N_FLUSHES)
    if any(i != at % (N_NOTES * N_FLUSHES) for at, i in enumerate(notes)) and state != "whole":
        return f"out of order, or twice: {notes}"
    if state == "whole" and notes[-N_NOTES * N_FLUSHES :] != list(range(N_NOTES * N_FLUSHES)):
        return f"not all of the last ones are there: {notes}"
    return "" if rest % N_NOTES == 0 else f"half a transaction: {runs} runs and {notes[-rest:]}"


def _has_a_table(path: Path) -> bool:
    """Whether it came so far as to make one."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as database:
        return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def forced(command: Callable[..., int]) -> Callable[[Path], int]:
    """Return a command with ``--force``."""
    return lambda directory: command(directory, "--force")


VIEWS = (
    Command(
        "report",
        result,
        report,
        forced(report),
        whole_or_earlier("page.html", page_is_whole, has_earlier=False),
        ("out", "page.html"),
    ),
    Command(
        "report --force",
        earlier(result_with_a_page, "page.html"),
        forced(report),
        forced(report),
        whole_or_earlier("page.html", page_is_whole, has_earlier=True),
        ("out", "page.html", "EARLIER"),
    ),
    Command(
        "heatmap --png",
        result,
        heatmap,
        forced(heatmap),
        whole_or_earlier("map.png", picture_is_whole, has_earlier=False),
        ("out", "map.png"),
    ),
    Command(
        "convert",
        trace,
        convert,
        forced(convert),
        whole_or_earlier("trace.parquet", table_is_whole, has_earlier=False),
        ("trace.txt", "trace.parquet"),
    ),
    Command(
        "run --report --trace-events",
        room_for_temporary_files,
        run_with_views,
        forced(run_with_views),
        views_wrong,
        ("page.html", "events.json.gz", "tmp"),
        inside=left_of_temporary_files,
    ),
    Command(
        "reproduce --out",
        nothing,
        reproduce,
        forced(reproduce),
        whole_or_earlier("r", reproduce_is_whole, has_earlier=False),
        ("r",),
    ),
    Command(
        "live --out",
        nothing,
        live_out,
        live_out,
        whole_or_earlier("live", live_is_whole, has_earlier=False),
        ("live",),
    ),
    Command(
        "service --install",
        lambda directory: (directory / "etc").mkdir(),
        service_install,
        service_install,
        install_wrong,
        ("etc",),
        inside=left_in_etc,
    ),
    Command("history", nothing, history, history, history_wrong, ("history.sqlite",)),
)
