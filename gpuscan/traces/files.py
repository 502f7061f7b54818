"""Which kind of trace a file is, by its first bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, open_file
from gpuscan.traces.damo import read_damo
from gpuscan.traces.perf import SCRIPT, read_perf
from gpuscan.traces.samples import Samples

_PERF_DATA = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")
"""Magic of a perf.data file in either byte order (tools/perf/util/header.c, v6.12)."""
_ZLIB = 0x78
"""First byte of a zlib stream with a window of 32 KiB; with the second it is a multiple of 31 (RFC 1950)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file that is there and looks like one of the kinds that can be read.

    Attributes:
        path: the file.
        kind: ``perf`` or ``damo``.
        n_bytes: its size.
    """

    path: Path
    kind: str
    n_bytes: int

    def blocks(self, on_read: Callable[[int], None] | None = None) -> Iterator[Samples]:
        """Read the trace once more from its beginning, block by block, ascending by time.

        Args:
            on_read: called with the bytes of the file read since the last call.

        Raises:
            InputError: the file is cut short, out of order or no such trace; names the line.
        """
        try:
            yield from (read_perf if self.kind == "perf" else read_damo)(self.path, on_read or _ignore)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        except UnfitError as error:  # it is another file now
            raise InputError(f"{self.path} {error}; give the trace again") from error


def open_trace(path: Path) -> Trace:
    """Look at the beginning of a trace file.

    Raises:
        InputError: it cannot be read, is no regular file, is empty, or is a recording that perf
            must turn into text first.
    """
    try:
        with os.fdopen(open_file(path), "rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            start = file.read(64)
    except UnfitError as error:
        raise InputError(f"{path} {error}, and a trace is read twice; save it to a file first") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r} is not a file name ({error}); give a trace") from error
    if start.startswith(_PERF_DATA):
        raise InputError(f"{path} is perf's own recording; turn it into text: perf script -i {path} {SCRIPT}")
    if not start:
        raise InputError(f"{path}:1: the trace is empty; record it again")
    is_damo = _is_zlib(start) or (start.lstrip()[:1] in (b"[", b"{") and not _is_perf_line(start))
    return Trace(path, "damo" if is_damo else "perf", n_bytes)


def _is_zlib(start: bytes) -> bool:
    return len(start) > 1 and start[0] == _ZLIB and int.from_bytes(start[:2], "big") % 31 == 0


def _is_perf_line(start: bytes) -> bool:
    """Whether the text begins with a CPU in brackets, as lines without comm and pid do."""
    cpu, _, after = start.lstrip()[1:].partition(b"]")
    return cpu.isdigit() and after[:1].isspace()


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read the trace {path}: {error.strerror}; give text of perf script or a damo record"
    )


def _ignore(n_bytes: int) -> None:
    """Nobody watches."""
