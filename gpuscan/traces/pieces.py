"""The bytes of a trace, piece by piece: as they are, or inflated where the file is compressed.

A few bytes may hold gigabytes, so no more is inflated at once than was asked for, and text of very many times
the size of its file is refused: gzip makes at most 1,032 times of it, and of the traces that are read hardly
100.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from gpuscan.base.units import format_bytes
from gpuscan.files.reading import open_file

_READ_BYTES = 1 << 20
_ZLIB = 0x78
"""First byte of a zlib stream with a window of 32 KiB; with the second it is a multiple of 31 (RFC 1950)."""
_GZIP_BITS = 16 + zlib.MAX_WBITS
_FREE_BYTES = 64 << 20
"""So much may come of any file."""
_RATIO_MAX = 400
_ENDS = "the compressed record ends in this line of its text; copy it again whole"
_MAGIC_BYTES = 8
"""Enough for any of :data:`_MAGIC`."""
_XZ_BYTES = 256 << 20
"""Memory for a dictionary of xz; -9 takes 65 MiB."""


class PackedError(ValueError):
    """A compressed file is damaged; the message goes on after its name and line."""


class Readable(Protocol):
    """What text is read from."""

    def readinto(self, place: memoryview) -> int:
        """Fill ``place`` with what is next; return how many bytes that were, 0 at the end."""


class Pieces:
    """The text of a file, from its beginning.

    Args:
        fd: of the file; the caller's.
        on_read: called with the bytes of the file read since the last call.
    """

    def __init__(self, fd: int, on_read: Callable[[int], None]) -> None:
        self._fd, self._on_read = fd, on_read
        start = os.pread(fd, _MAGIC_BYTES, 0)
        self._make = _unpacker(start)
        self._unpack: Any = self._make() if self._make is not None else None
        self._packed = b""
        self._n_read = self._n_given = 0

    def readinto(self, place: memoryview) -> int:
        """Fill ``place`` with what is next; return how many bytes that were, 0 at the end.

        Raises:
            PackedError: a compressed file breaks or ends here, or inflates beyond measure.
            OSError: the system refused it.
        """
        if self._unpack is None:
            n_bytes = os.readv(self._fd, [place])
            self._on_read(n_bytes)
            return n_bytes
        while True:
            part = self._next(len(place))
            if part is None:
                return 0
            if part:
                place[: len(part)] = part
                return len(part)

    def _next(self, n_bytes: int) -> bytes | None:
        """Return up to ``n_bytes`` more, maybe none for now; None at the end."""
        if self._unpack.eof:
            behind = self._unpack.unused_data
            while len(behind) < _MAGIC_BYTES and (more := self._read()):
                behind += more
            if not behind:
                return None
            make = _unpacker(behind)
            if make is None or make is not self._make or make is zlib.decompressobj:
                raise PackedError("something follows the end of the compressed record; copy it again whole")
            self._unpack, self._packed = make(), behind  # gzip and others: one after the other
        try:
            if isinstance(self._unpack, (lzma.LZMADecompressor, bz2.BZ2Decompressor)):
                data = self._read() if self._unpack.needs_input and not self._packed else self._packed
                self._packed = b""
                if self._unpack.needs_input and not data:
                    raise PackedError(_ENDS)
                part: bytes = self._unpack.decompress(data, n_bytes)
            else:
                data = self._packed or self._read()
                part = self._unpack.decompress(data, n_bytes)
                self._packed = self._unpack.unconsumed_tail
                if not data and not part and not self._unpack.eof:
                    raise PackedError(_ENDS)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise PackedError(
                "the compressed record breaks in or after this line of its text; copy it again whole"
            ) from error
        self._n_given += len(part)
        if self._n_given > max(_FREE_BYTES, _RATIO_MAX * self._n_read):
            raise PackedError(
                f"{format_bytes(self._n_read)} inflate to more than {format_bytes(self._n_given)}, which no "
                "trace does; unpack it yourself if it is sound"
            )
        return part

    def _read(self) -> bytes:
        read = os.read(self._fd, _READ_BYTES)
        self._n_read += len(read)
        self._on_read(len(read))
        return read


def _unpacker(start: bytes) -> Callable[[], Any] | None:
    """Return what makes an unpacker for a file that begins like this, None where it is not compressed."""
    if len(start) > 1 and start[0] == _ZLIB and int.from_bytes(start[:2], "big") % 31 == 0:
        return zlib.decompressobj
    for magic, make in _MAGIC.items():
        if start.startswith(magic):
            return make
    return None


def _gzip() -> Any:
    return zlib.decompressobj(_GZIP_BITS)


def _xz() -> Any:
    return lzma.LZMADecompressor(memlimit=_XZ_BYTES)


_MAGIC: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"BZh": bz2.BZ2Decompressor,
}
"""By their first bytes (magic numbers of gzip, xz and bzip2)."""


@contextmanager
def open_pieces(path: Path, on_read: Callable[[int], None]) -> Iterator[Pieces]:
    """Open a file for its text, whatever it is compressed by.

    Raises:
        UnfitError: it is no regular file.
        OSError: it cannot be opened.
    """
    fd = open_file(path)
    try:
        yield Pieces(fd, on_read)
    finally:
        os.close(fd)


def start_of(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of the text of a file, fewer where it ends or breaks before.

    Raises:
        PackedError: it is compressed, and breaks before its text begins.
        UnfitError: it is no regular file.
        OSError: it cannot be opened or read.
    """
    start = bytearray(n_bytes)
    n = 0
    with open_pieces(path, lambda _: None) as pieces:
        try:
            while n < n_bytes and (n_more := pieces.readinto(memoryview(start)[n:])):
                n += n_more
        except PackedError:
            if not n:
                raise  # else reading it will say where
    return bytes(start[:n])
