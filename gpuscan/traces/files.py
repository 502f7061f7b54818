"""A trace file: of which format it is, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError
from gpuscan.traces.catalogue import of_file, remedy, told_by
from gpuscan.traces.contract import START_BYTES, TraceFormat
from gpuscan.traces.given import PAGES, check_known
from gpuscan.traces.page_table import PageTable
from gpuscan.traces.page_table_file import read_page_table
from gpuscan.traces.pieces import PackedError, start_of
from gpuscan.traces.samples import UNKNOWN_CPU, Samples


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file that is there and looks like one of the formats that can be read.

    Attributes:
        path: the file.
        kind: the name of its format.
        n_bytes: its size.
        format: what can be said of it before it is read.
        table: what its virtual addresses are translated by, where one was given.
    """

    path: Path
    kind: str
    n_bytes: int
    format: TraceFormat
    table: PageTable | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read of it."""
        return (self.path,) if self.table is None else (self.path, self.table.path)

    def blocks(self, on_read: Callable[[int], None] | None = None) -> Iterator[Samples]:
        """Read the trace once more from its beginning, block by block, ascending by time.

        Args:
            on_read: called with the bytes of the file read since the last call.

        Raises:
            InputError: the file is cut short, out of order or no such trace; names the line. Or its format
                does not say of CPUs what it declares.
        """
        read = self._samples(on_read or _ignore)
        yield from read if self.table is None else self.table.frames(read)

    def _samples(self, on_read: Callable[[int], None]) -> Iterator[Samples]:
        try:
            for samples in self.format.read(self.path, on_read):
                if bool(((samples.cpu != UNKNOWN_CPU) != self.format.knows_cpus).any()):
                    raise InputError(
                        f"{self.path}: the trace format {self.kind} declares knows_cpus = "
                        f"{self.format.knows_cpus}, and gives samples that are otherwise; mend its package"
                    )
                yield samples
        except OSError as error:
            raise _unreadable(self.path, error) from error
        except UnfitError as error:  # it is another file now
            raise InputError(f"{self.path} {error}; give the trace again") from error


def open_trace(path: Path, given: Mapping[str, str] | None = None) -> Trace:
    """Look at the beginning of a trace file.

    Args:
        path: of the file.
        given: what its user says of it, by key (:mod:`gpuscan.traces.given`).

    Raises:
        InputError: it cannot be read, is no regular file, is empty, or no format that can be read; or what
            was given does not fit it, or is too little.
    """
    given = given or {}
    try:
        start = start_of(path, START_BYTES)
        n_bytes = path.stat().st_size
    except UnfitError as error:
        raise InputError(f"{path} {error}, and a trace is read twice; save it to a file first") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except PackedError as error:
        raise InputError(f"{path}:1: {error}") from error
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r} is not a file name ({error}); give a trace") from error
    if not start:
        raise InputError(f"{path}:1: the trace is empty; record it again")
    kind = told_by(path, start)
    try:
        fmt = of_file(kind, path, start, given)
    except OSError as error:
        raise _unreadable(path, error) from error
    check_known(path, kind, fmt, given)
    if PAGES not in given:
        return Trace(path, kind, n_bytes, fmt)
    pages = read_page_table(Path(given[PAGES]))
    assumes = "; ".join(filter(None, (fmt.assumes, pages.sentence())))
    translated = replace(fmt, is_virtual=False, outside_advice="", assumes=assumes)
    return Trace(path, kind, n_bytes, translated, pages)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot read the trace {path}: {error.strerror}; {remedy()}")


def _ignore(n_bytes: int) -> None:
    """Nobody watches."""
