"""What only grows, beside the generations: entries appended to one file, and how far it counts.

A generation keeps the :class:`Position` up to which the file belongs to it. Whatever a killed
writer appended after that is cut off by the next one. On disk an entry is its length
(8 bytes, little-endian) and its bytes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import whole
from gpuscan.base.errors import CheckpointError, RunFailedError
from gpuscan.files.chunks import said
from gpuscan.files.reading import Folder, UnfitError, check_room
from gpuscan.files.writing import open_kept, sync_path

_LENGTH = struct.Struct("<Q")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log counts: its first ``n_bytes``, whose CRC-32 is ``crc32``."""

    n_bytes: int = 0
    crc32: int = 0


class Log:
    """Appends to a file.

    Args:
        path: made where it is not there.
        position: what to go on from; everything behind it is cut off.

    Raises:
        CheckpointError: the file is shorter than that, or was changed.
        InputError: something else has that name.
        RunFailedError: the system refused it.
    """

    def __init__(self, path: Path, position: Position = Position()) -> None:
        self.path = path
        if position.n_bytes:
            check(path, position)
        with _writing_to(path):
            self._file = os.fdopen(open_kept(path), "r+b")
            os.ftruncate(self._file.fileno(), position.n_bytes)  # which is repeated where the file's is not
            self._file.seek(position.n_bytes)
            sync_path(path.parent)
        self._position = position

    def append(self, entry: bytes) -> None:
        """Add one entry.

        Raises:
            RunFailedError: the system refused it.
        """
        with _writing_to(self.path):
            for part in (_LENGTH.pack(len(entry)), entry):
                self._file.write(part)
                before = self._position
                self._position = Position(before.n_bytes + len(part), zlib.crc32(part, before.crc32))

    def sync(self) -> dict[str, Any]:
        """Bring all entries to the disk and return the position behind them, as a state.

        Raises:
            RunFailedError: the system refused it.
        """
        with _writing_to(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return asdict(self._position)

    def close(self) -> None:
        """Let go of the file; entries since the last :meth:`sync` count for nobody."""
        with suppress(OSError):
            self._file.close()


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailedError(
            f"cannot write {path}: {error.strerror}; make room and go on from the last checkpoint there"
        ) from error


def position_of(state: Mapping[str, Any]) -> Position:
    """Return the position that :meth:`Log.sync` returned.

    Raises:
        ValueError: it returned no such thing.
    """
    return Position(
        whole(state.get("n_bytes"), 0, INT64_MAX, "n_bytes of a log"),
        whole(state.get("crc32"), 0, (1 << 32) - 1, "crc32 of a log"),
    )


def check(path: Path, position: Position) -> None:
    """Check that a log is what it was when it was at ``position``.

    Raises:
        CheckpointError: it is missing, shorter, was changed, or does not consist of entries.
    """
    crc32, left = 0, position.n_bytes
    with _reading(path) as file:
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            crc32 = zlib.crc32(piece, crc32)
            left -= len(piece)
    if left or crc32 != position.crc32:
        what = f"ends {left} bytes early" if left else "was changed (its CRC-32 is wrong)"
        raise CheckpointError(f"{path} {what}; run again from the start, or bring back a copy")
    for _ in _lengths(path, position):
        pass


def entries(path: Path, position: Position) -> Iterator[bytes]:
    """Yield the entries up to a position, which :func:`check` accepted.

    Raises:
        CheckpointError: the file cannot be read any more, or an entry would not fit into memory.
    """
    for file, length in _lengths(path, position):
        yield file.read(length)


def _lengths(path: Path, position: Position) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the length of each entry, and the file where its bytes begin."""
    at = 0
    with _reading(path) as file:
        while at < position.n_bytes:
            head = file.read(_LENGTH.size)
            at += _LENGTH.size
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else position.n_bytes
            if at + length > position.n_bytes:
                raise CheckpointError(
                    f"{path} does not consist of entries; run again from the start, or bring back a copy"
                )
            if length > _PIECE_BYTES:
                check_room(length)
            yield file, length
            at += length
            file.seek(at)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with Folder(path.parent) as folder, os.fdopen(folder.open(path.name), "rb") as file:
            yield file
    except (UnfitError, OSError) as error:
        raise CheckpointError(f"{said(error, path)}; bring back a copy") from None
