"""A trace file: of which format it is, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError
from gpuscan.traces.catalogue import TRACES, of_file, remedy, told_by
from gpuscan.traces.contract import START_BYTES, TraceFormat
from gpuscan.traces.pieces import PackedError, start_of
from gpuscan.traces.samples import UNKNOWN_CPU, Samples


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file that is there and looks like one of the formats that can be read.

    Attributes:
        path: the file.
        kind: the name of its format.
        n_bytes: its size.
        own_format: what is true of this file, where that differs from file to file.
    """

    path: Path
    kind: str
    n_bytes: int
    own_format: TraceFormat | None = None

    @property
    def format(self) -> TraceFormat:
        """What can be said of the trace before it is read."""
        return self.own_format or TRACES.get(self.kind)

    def blocks(self, on_read: Callable[[int], None] | None = None) -> Iterator[Samples]:
        """Read the trace once more from its beginning, block by block, ascending by time.

        Args:
            on_read: called with the bytes of the file read since the last call.

        Raises:
            InputError: the file is cut short, out of order or no such trace; names the line. Or its format
                does not say of CPUs what it declares.
        """
        try:
            for samples in self.format.read(self.path, on_read or _ignore):
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


def open_trace(path: Path) -> Trace:
    """Look at the beginning of a trace file.

    Raises:
        InputError: it cannot be read, is no regular file, is empty, or no format that can be read.
    """
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
        return Trace(path, kind, n_bytes, of_file(kind, path, start))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot read the trace {path}: {error.strerror}; {remedy()}")


def _ignore(n_bytes: int) -> None:
    """Nobody watches."""
