"""The bytes of a trace, piece by piece: as they are, or inflated where the file is compressed.

A few bytes may hold gigabytes, so no more is inflated at once than was asked for, and text of very many times
the size of its file is refused: gzip makes at most 1,032 times of it, Zstandard any number, and of the traces
that are read hardly 100. gzip, zlib, xz and bzip2 are Python's own, Zstandard and LZ4 are Arrow's.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from gpuscan.base.errors import InputError
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
_BREAKS = "the compressed record breaks in or after this line of its text; copy it again whole"
_TOO_MUCH = "what it was compressed with takes too much memory to inflate; unpack it yourself if it is sound"
_MAGIC_BYTES = 8
"""Enough for any of :data:`_MAGIC`."""
_SKIPPED = 0x184D2A5
"""Upper bits of the magic number of a frame that is passed over (RFC 8878); pzstd begins with one."""
_XZ_BYTES = 256 << 20
"""Memory for a dictionary of xz; -9 takes 65 MiB."""


class PackedError(ValueError):
    """A compressed file is damaged; the message goes on after its name and line."""


class Readable(Protocol):
    """What text is read from."""

    def readinto(self, place: memoryview) -> int:
        """Fill ``place`` with what is next; return how many bytes that were, 0 at the end."""


class _Unpacking(Protocol):
    """What inflates a file."""

    def next(self, n_bytes: int) -> bytes | None:
        """Return up to ``n_bytes`` more, maybe none for now; None at the end.

        Raises:
            PackedError: the file breaks or ends here.
            OSError: the system refused it.
        """


class Pieces:
    """The text of a file, from its beginning.

    Args:
        fd: of the file; the caller's.
        on_read: called with the bytes of the file read since the last call.
    """

    def __init__(self, fd: int, on_read: Callable[[int], None]) -> None:
        self._fd, self._on_read = fd, on_read
        make = _unpacking(os.pread(fd, _MAGIC_BYTES, 0))
        self._unpacking: _Unpacking | None = None if make is None else make(self._read)
        self._n_read = self._n_given = 0

    def readinto(self, place: memoryview) -> int:
        """Fill ``place`` with what is next; return how many bytes that were, 0 at the end.

        Raises:
            PackedError: a compressed file breaks or ends here, or inflates beyond measure.
            OSError: the system refused it.
        """
        if self._unpacking is None:
            n_bytes = os.readv(self._fd, [place])
            self._on_read(n_bytes)
            return n_bytes
        while True:
            part = self._unpacking.next(len(place))
            if part is None:
                return 0
            self._n_given += len(part)
            if self._n_given > max(_FREE_BYTES, _RATIO_MAX * self._n_read):
                raise PackedError(
                    f"{format_bytes(self._n_read)} inflate to more than {format_bytes(self._n_given)}, which "
                    "no trace does; unpack it yourself if it is sound"
                )
            if part:
                place[: len(part)] = part
                return len(part)

    def close(self) -> None:
        """Let go of what inflates. Arrow holds what it reads from, which is this: nobody else ends that."""
        self._unpacking = None

    def _read(self, n_bytes: int) -> bytes:
        read = os.read(self._fd, n_bytes)
        self._n_read += len(read)
        self._on_read(len(read))
        return read


_Read = Callable[[int], bytes]


class _OfPython:
    """Inflates by what Python has: gzip, xz and bzip2, of which several may follow each other, and zlib.

    Args:
        make: what makes an object that inflates one of them.
        read: gives up to so many bytes of the file.
    """

    def __init__(self, make: Callable[[], Any], read: _Read) -> None:
        self._make, self._read = make, read
        self._unpack, self._packed = make(), b""

    def next(self, n_bytes: int) -> bytes | None:
        """See :class:`_Unpacking`."""
        if self._unpack.eof and not self._begins_anew():
            return None
        try:
            if isinstance(self._unpack, (lzma.LZMADecompressor, bz2.BZ2Decompressor)):
                data = b""
                if self._packed or self._unpack.needs_input:
                    data, self._packed = self._packed or self._read(_READ_BYTES), b""
                if self._unpack.needs_input and not data:
                    raise PackedError(_ENDS)
                part: bytes = self._unpack.decompress(data, n_bytes)
            else:
                data = self._packed or self._read(_READ_BYTES)
                part = self._unpack.decompress(data, n_bytes)
                self._packed = self._unpack.unconsumed_tail
                if not data and not part and not self._unpack.eof:
                    raise PackedError(_ENDS)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise PackedError(_TOO_MUCH if "usage limit" in str(error) else _BREAKS) from error
        return part

    def _begins_anew(self) -> bool:
        """Whether another follows the one that has ended."""
        behind = self._unpack.unused_data
        while len(behind) < _MAGIC_BYTES and (more := self._read(_READ_BYTES)):
            behind += more
        if not behind:
            return False
        if self._make is zlib.decompressobj or _maker(behind) is not self._make:
            raise PackedError("something follows the end of the compressed record; copy it again whole")
        self._unpack, self._packed = self._make(), behind
        return True


class _File(io.RawIOBase):
    """What Arrow reads from."""

    def __init__(self, read: _Read) -> None:
        super().__init__()
        self._read = read

    def readable(self) -> bool:
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        return self._read(min(n_bytes, _READ_BYTES) if n_bytes >= 0 else _READ_BYTES)


class _OfArrow:
    """Inflates by what Arrow has: frames one after the other, of windows of up to 128 MiB.

    Args:
        codec: Arrow's name of it.
        read: gives up to so many bytes of the file.
    """

    def __init__(self, codec: str, read: _Read) -> None:
        import pyarrow as pa  # 0.1 s, and few traces are compressed like that

        self._stream = pa.CompressedInputStream(pa.PythonFile(_File(read), "r"), codec)

    def next(self, n_bytes: int) -> bytes | None:
        """See :class:`_Unpacking`."""
        try:
            part: bytes = self._stream.read(n_bytes)
        except OSError as error:
            if error.errno:
                raise
            why = str(error)
            if "Truncated" in why:
                raise PackedError(_ENDS) from error
            raise PackedError(_TOO_MUCH if "too much memory" in why else _BREAKS) from error
        return part or None


def _unpacking(start: bytes) -> Callable[[_Read], _Unpacking] | None:
    """Return what makes the unpacking of a file that begins like this, None where it is not compressed."""
    make = _maker(start)
    if make is not None:
        return lambda read: _OfPython(make, read)
    codec = "zstd" if int.from_bytes(start[:4], "little") >> 4 == _SKIPPED else _OF_ARROW.get(start[:4])
    return None if codec is None else lambda read: _OfArrow(codec, read)


def _maker(start: bytes) -> Callable[[], Any] | None:
    """Return what makes an object of Python that inflates what begins like this, None where there is none."""
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
_OF_ARROW = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""The same of Zstandard and LZ4."""


@contextmanager
def open_pieces(path: Path, on_read: Callable[[int], None]) -> Iterator[Pieces]:
    """Open a file for its text, whatever it is compressed by.

    Raises:
        UnfitError: it is no regular file.
        OSError: it cannot be opened.
    """
    fd = open_file(path)
    try:
        pieces = Pieces(fd, on_read)
        try:
            yield pieces
        finally:
            pieces.close()
    finally:
        os.close(fd)


def check_plain(path: Path) -> None:
    """Refuse a compressed file of a format that is not read from its beginning on.

    Raises:
        InputError: it is compressed.
        UnfitError: it is no regular file.
        OSError: it cannot be opened or read.
    """
    fd = open_file(path)
    try:
        if _unpacking(os.pread(fd, _MAGIC_BYTES, 0)) is not None:
            raise InputError(f"{path} is compressed, and is not read from its beginning on; unpack it first")
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
