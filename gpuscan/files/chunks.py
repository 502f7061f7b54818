"""Arrays in a Zarr directory, read: only what gpuscan writes, checked before a byte is decoded.

The zarr library writes them. It is not asked to read them: what it makes of a directory that somebody
else made depends on its version and on what else is installed (Zarr v2 metadata with a pickle for a
codec, object dtypes), and c-blosc trusts the offsets of a frame. So this reads one thing: one dimension,
one of :data:`DTYPES`, regular chunks under the default keys, little-endian bytes, shuffled, in a frame of
Blosc 1 with zstd. Evidence for the frame: README_CHUNK_FORMAT.rst of c-blosc v1.21.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpuscan.files.reading import Folder, UnfitError, parse_json

METADATA = "zarr.json"
DTYPES = {
    np.dtype(name).name: np.dtype(name) for name in ("<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8")
}
"""Zarr's name for every dtype that gpuscan writes."""

_METADATA_BYTES_MAX = 1 << 20
"""A checksum for each of 80,000 chunks; a 64 TiB machine has 4,096 in an array."""
_FOREIGN = (".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Metadata of Zarr v2: whoever reads both would have two arrays in one place."""
_LEVEL_MAX = 9

_HEAD = struct.Struct("<BBBBIII")
_BLOSC_VERSION, _ZSTD_VERSION = 2, 1
_SHUFFLED, _STORED, _UNSPLIT = 0x01, 0x02, 0x10
_ZSTD = 4
"""The compressor, in the upper three bits of the flags."""
_BLOCK_BYTES_MIN = 1 << 12
"""c-blosc's smallest block for zstd is 16 KiB, or the chunk; less would only make more of them."""


class ChunkReader:
    """One array of a directory.

    Args:
        folder: of the whole; it may be closed afterwards.
        names: the array's, below that.
        dtype: that it must have.
        length: elements that it must have.
        chunk: elements of a chunk that it must have; None: what ``chunk_max`` allows.
        chunk_max: elements of a chunk at most.

    Attributes:
        attributes: as written.
        chunk: elements of a chunk.
        n_chunks: chunks.

    Raises:
        UnfitError: it is anything else than such an array.
        OSError: it cannot be opened.
    """

    def __init__(
        self,
        folder: Folder,
        names: tuple[str, ...],
        dtype: np.dtype[Any],
        length: int,
        *,
        chunk: int | None = None,
        chunk_max: int | None = None,
    ) -> None:
        self.dtype, self.length = dtype, length
        self._folder = folder.below(*names)
        try:
            document = read_metadata(self._folder)
            self.attributes: dict[str, Any] = document["attributes"]
            self.chunk = _chunk_of(document)
            _check_array(document, dtype, length, self.chunk)
            if (chunk is not None and self.chunk != chunk) or self.chunk > max(1, chunk_max or self.chunk):
                raise UnfitError(f"has chunks of {self.chunk} elements")
            self.n_chunks = -(-length // self.chunk)
            self._chunks = self._chunks_folder()
        except BaseException:
            self.close()
            raise

    def _chunks_folder(self) -> Folder | None:
        try:
            return self._folder.below("c")
        except FileNotFoundError:  # all chunks are zeros
            return None

    def read(self, number: int) -> NDArray[Any]:
        """Return the elements of a chunk, fewer in the last one; zeros where it has no file.

        Raises:
            UnfitError: the file is no such chunk.
            OSError: it cannot be read.
        """
        n_used = min(self.chunk, self.length - number * self.chunk)
        if self._chunks is None:
            return np.zeros(n_used, dtype=self.dtype)
        n_bytes = self.chunk * self.dtype.itemsize
        try:
            frame = self._chunks.read(str(number), n_bytes + _HEAD.size)
        except FileNotFoundError:
            return np.zeros(n_used, dtype=self.dtype)
        return decoded(frame, n_bytes, self.dtype.itemsize).view(self.dtype)[:n_used]

    def close(self) -> None:
        """Let go of the directory."""
        self._folder.close()
        chunks = getattr(self, "_chunks", None)
        if chunks is not None:
            chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metadata(folder: Folder, n_bytes_max: int = _METADATA_BYTES_MAX) -> dict[str, Any]:
    """Return the metadata of a Zarr array or group, of format 3 and with a table of attributes.

    Raises:
        UnfitError: there are other metadata beside it, or it is not that.
        OSError: it cannot be read.
    """
    with named(METADATA):
        document = parse_json(folder.read(METADATA, n_bytes_max))
    foreign = sorted(set(_FOREIGN).intersection(folder.names()))
    if foreign:
        raise UnfitError(f"has {foreign[0]} beside its {METADATA}, which gpuscan does not write")
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise UnfitError("is not of Zarr format 3")
    if not isinstance(document.setdefault("attributes", {}), dict):
        raise UnfitError("has attributes that are no table")
    return document


def check_group(document: dict[str, Any]) -> None:
    """Refuse metadata (:func:`read_metadata`) that are not those of a group as gpuscan writes it.

    Raises:
        UnfitError: they are not.
    """
    if document != {"zarr_format": 3, "node_type": "group", "attributes": document["attributes"]}:
        raise UnfitError("is not a Zarr group as gpuscan writes it")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of a file before what is wrong with it."""
    try:
        yield
    except UnfitError as error:
        raise UnfitError(f"has a {name} that {error}") from None


def said(error: UnfitError | OSError, place: Path | str) -> str:
    """Return what is wrong with a place."""
    return f"{place} cannot be read ({error.strerror})" if isinstance(error, OSError) else f"{place} {error}"


def _chunk_of(document: dict[str, Any]) -> int:
    try:
        (chunk,) = document["chunk_grid"]["configuration"]["chunk_shape"]
    except (KeyError, TypeError, ValueError):
        raise UnfitError("is not divided into regular chunks of one dimension") from None
    if type(chunk) is not int or chunk < 1:
        raise UnfitError("has chunks without elements")
    return chunk


def _check_array(document: dict[str, Any], dtype: np.dtype[Any], length: int, chunk: int) -> None:
    """Refuse metadata that gpuscan would not write for these."""
    expected = {
        "node_type": "array",
        "data_type": dtype.name,
        "shape": [length],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
    }
    if dtype.name not in DTYPES:
        raise UnfitError(f"is of the type {dtype.name}, which gpuscan does not write")
    for key, value in expected.items():
        if not _same(document.get(key), value):
            raise UnfitError(f"has the {key} {str(document.get(key))[:60]}, not {value}")
    rest = {key: value for key, value in document.items() if key not in expected}
    codecs = rest.pop("codecs", None)
    allowed = {"zarr_format": 3, "attributes": document["attributes"], "storage_transformers": []}
    if any(key not in allowed or value != allowed[key] for key, value in rest.items()):
        unknown = next(key for key, value in rest.items() if key not in allowed or value != allowed[key])
        raise UnfitError(f"has the key {unknown[:40]!r}, which gpuscan does not write")
    if not _same(codecs, _codecs(dtype, _level_of(codecs))):
        raise UnfitError(f"has the codecs {str(codecs)[:60]}, and only those that gpuscan writes are decoded")


def _level_of(codecs: Any) -> int:
    """Return the compression level that codecs tell, which is any, and nothing to a reader."""
    try:
        level = codecs[-1]["configuration"]["clevel"]
    except (KeyError, TypeError, IndexError):
        return 0
    return level if type(level) is int and 0 <= level <= _LEVEL_MAX else 0


def _codecs(dtype: np.dtype[Any], level: int) -> list[Any]:
    to_bytes: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype.itemsize == 1:
        to_bytes = {"name": "bytes"}
    blosc = {
        "typesize": dtype.itemsize,
        "cname": "zstd",
        "clevel": level,
        "shuffle": "shuffle",
        "blocksize": 0,
    }
    return [to_bytes, {"name": "blosc", "configuration": blosc}]


def _same(found: Any, value: Any) -> bool:
    """Whether two JSON values are equal, types too: 1.0 and true are not 1."""
    if type(found) is not type(value):
        return False
    if isinstance(value, dict):
        return found.keys() == value.keys() and all(_same(found[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(found) == len(value) and all(map(_same, found, value))
    return bool(found == value)


def decoded(frame: bytes, n_bytes: int, typesize: int) -> NDArray[np.uint8]:
    """Return what is in a frame of Blosc 1 with zstd: uint8[n_bytes].

    Args:
        frame: whole.
        n_bytes: that it must hold.
        typesize: bytes of an element, of which those of equal rank are side by side.

    Raises:
        UnfitError: it is not such a frame; nothing beyond it was read, nothing beyond ``n_bytes`` written.
    """
    if len(frame) < _HEAD.size:
        raise UnfitError("is cut short")
    version, inner, flags, size, n_held, n_block, n_frame = _HEAD.unpack_from(frame)
    if (version, inner, flags >> 5) != (_BLOSC_VERSION, _ZSTD_VERSION, _ZSTD) or flags & 0x0C:
        raise UnfitError("is not compressed as gpuscan does it")
    if (size, n_held, n_frame) != (typesize, n_bytes, len(frame)):
        raise UnfitError("is not of the size that it should be")
    if flags & _STORED:
        if len(frame) != _HEAD.size + n_bytes:
            raise UnfitError("is cut short")
        return np.frombuffer(frame, dtype=np.uint8, offset=_HEAD.size)
    if not min(n_bytes, _BLOCK_BYTES_MIN) <= n_block <= n_bytes or n_block % typesize:
        raise UnfitError(f"has blocks of {n_block} bytes")
    return _blocks(frame, n_bytes, n_block, typesize, flags)


def _blocks(frame: bytes, n_bytes: int, n_block: int, typesize: int, flags: int) -> NDArray[np.uint8]:
    import pyarrow as pa  # 0.1 s, and not every command reads chunks

    n_blocks = -(-n_bytes // n_block)
    first = _HEAD.size + 4 * n_blocks
    if first > len(frame):
        raise UnfitError("is cut short")
    starts = np.frombuffer(frame, dtype="<i4", count=n_blocks, offset=_HEAD.size).tolist()
    out = np.empty(n_bytes, dtype=np.uint8)
    held, zstd = memoryview(frame), pa.Codec("zstd")
    for number, start in enumerate(starts):
        block = out[number * n_block : (number + 1) * n_block]
        # The last block is in one stream where it is shorter, whatever the others are in.
        n_streams = typesize if not flags & _UNSPLIT and len(block) == n_block else 1
        if start < first or len(block) % (n_streams * typesize):
            raise UnfitError("is damaged")
        n_stream = len(block) // n_streams
        streams = []
        for _ in range(n_streams):
            stream, start = _stream(zstd, held, start, n_stream)
            streams.append(stream)
        plain = streams[0] if n_streams == 1 else np.concatenate(streams)
        if flags & _SHUFFLED and typesize > 1:
            by_element = block.reshape(-1, typesize)
            for rank, values in enumerate(plain.reshape(typesize, -1)):
                by_element[:, rank] = values
        else:
            block[:] = plain
    return out


def _stream(zstd: Any, frame: memoryview, start: int, n_bytes: int) -> tuple[NDArray[np.uint8], int]:
    """Return the bytes of the stream at ``start``, ``n_bytes`` of them, and where it ends."""
    begin = start + 4
    if begin > len(frame):
        raise UnfitError("is cut short")
    end = begin + int.from_bytes(frame[start:begin], "little", signed=True)
    if not begin < end <= len(frame):
        raise UnfitError("is damaged")
    if end - begin == n_bytes:
        return np.frombuffer(frame[begin:end], dtype=np.uint8), end
    try:
        # libzstd is given room for this much and no more, and Arrow wants all of it filled.
        plain = zstd.decompress(frame[begin:end], decompressed_size=n_bytes)
    except (OSError, ValueError) as error:
        raise UnfitError(f"is damaged ({str(error)[:80]})") from None
    return np.frombuffer(plain, dtype=np.uint8), end
