"""Arrays on disk as Zarr, of which only the chunks that changed are written again.

Every chunk is known by the SHA-256 of its elements. A chunk that has the digest it had in the
generation before is a hard link to that one's file (a copy where the file system has no
links); a chunk of zeros has no file, and an array of zeros, or of nothing, no folder. A chunk that is not
there is read as zeros, so the digests are also what finds a lost or damaged one. They are no signature:
:mod:`gpuscan.files.chunks` reads the files, which may be anybody's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import shown, table, text, texts, whole
from gpuscan.base.errors import CheckpointError
from gpuscan.checkpoint.state import digest
from gpuscan.files.chunks import DTYPES, METADATA, ChunkReader, said
from gpuscan.files.reading import Folder, UnfitError
from gpuscan.files.writing import copy

CHUNK_BYTES = 2 << 20
"""Of one chunk before compression: 16 sections of 4-byte records."""

_CHUNK_BYTES_MAX = 2 << 20
"""Of one that is read, whatever :data:`CHUNK_BYTES` is."""
_SHA256 = re.compile("[0-9a-f]{64}")
_DTYPES = frozenset(dtype.str for dtype in DTYPES.values())


@dataclass(frozen=True, slots=True)
class ArrayFacts:
    """What the state file says of an array.

    Attributes:
        dtype: NumPy's name for it, with byte order (``<u4``).
        length: elements.
        chunk: elements per chunk.
        sha256: of the bytes of each chunk's elements.
    """

    dtype: str
    length: int
    chunk: int
    sha256: tuple[str, ...]

    @classmethod
    def of(cls, document: Any) -> ArrayFacts:
        """Return the facts that a state file tells, if they can be those of an array that was written.

        Raises:
            ValueError: they cannot.
        """
        found = table(document, "the facts of an array", ("dtype", "length", "chunk", "sha256"))
        dtype = text(found["dtype"], "the dtype of an array")
        if dtype not in _DTYPES:
            raise ValueError(f"an array is of {shown(dtype)}, which gpuscan does not write")
        n_max = _CHUNK_BYTES_MAX // np.dtype(dtype).itemsize
        chunk = whole(found["chunk"], 1, n_max, "the chunk of an array")
        length = whole(found["length"], 0, INT64_MAX, "the length of an array")
        digests = texts(found["sha256"], "the digests of an array", -(-length // chunk))
        if len(digests) != -(-length // chunk) or not all(map(_SHA256.fullmatch, digests)):
            raise ValueError("an array has no SHA-256 for each of its chunks")
        return cls(dtype, length, chunk, tuple(digests))

    @property
    def n_bytes(self) -> int:
        """Bytes of all elements."""
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def digests_of_zeros(self) -> tuple[str, ...]:
        """What ``sha256`` would be if all elements were zeros."""
        itemsize = np.dtype(self.dtype).itemsize
        parts = _parts(self.length, self.chunk)
        return tuple(_digest_of_zeros((part.stop - part.start) * itemsize) for part in parts)

    def same_layout(self, other: ArrayFacts) -> bool:
        """Whether chunks of the two can stand for each other."""
        return (self.dtype, self.length, self.chunk) == (other.dtype, other.length, other.chunk)


@dataclass(slots=True)
class Written:
    """What a generation cost.

    Attributes:
        n_chunks: chunks of all arrays.
        n_written: those whose elements had changed.
        raw_bytes: of the elements of these, before compression.
    """

    n_chunks: int = 0
    n_written: int = 0
    raw_bytes: int = 0

    def add(self, other: Written) -> None:
        """Count what somebody else wrote of the same generation."""
        self.n_chunks += other.n_chunks
        self.n_written += other.n_written
        self.raw_bytes += other.raw_bytes


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """Where arrays of a generation are written; to be sent to other processes that see the directory.

    Attributes:
        directory: of the new arrays, a Zarr group that is there.
        before: directory of those of the generation before, None for the first.
        facts_before: arrays of that, by path.
    """

    directory: Path
    before: Path | None
    facts_before: dict[str, ArrayFacts]

    @classmethod
    def make(cls, directory: Path, before: Path | None, facts_before: dict[str, ArrayFacts]) -> ArrayPlace:
        """Make the group."""
        import zarr

        zarr.create_group(directory, zarr_format=3)
        return cls(directory, before, facts_before)

    def below(self, path: str) -> ArrayPlace:
        """Return the place for the arrays below a path alone: less to send."""
        facts = {name: fact for name, fact in self.facts_before.items() if name.startswith(f"{path}.")}
        return ArrayPlace(self.directory, self.before, facts)


@dataclass(slots=True)
class ArrayWriter:
    """Writes arrays of one generation.

    Attributes:
        place: where.
        facts: arrays written, by path.
        written: counts.
    """

    place: ArrayPlace
    facts: dict[str, ArrayFacts] = field(default_factory=dict)
    written: Written = field(default_factory=Written)

    def write(self, path: str, array: NDArray[Any]) -> None:
        """Write one array (one dimension, any numbers) as ``path``.

        Raises:
            OSError: the system refused it.
        """
        array = np.ascontiguousarray(array)
        n_chunk = max(1, CHUNK_BYTES // array.itemsize)
        parts = list(_parts(len(array), n_chunk))
        digests = tuple(digest(array[part].view(np.uint8).data) for part in parts)
        facts = ArrayFacts(array.dtype.str, len(array), n_chunk, digests)
        known = self.place.facts_before.get(path)
        before = self.place.before if known is not None and facts.same_layout(known) else None
        target, is_shared = None, False
        for number, (part, digest_of_zeros) in enumerate(zip(parts, facts.digests_of_zeros, strict=True)):
            if digests[number] == digest_of_zeros:
                continue
            same = before is not None and known is not None and known.sha256[number] == digests[number]
            if same and self._share(before, f"{path}/c/{number}"):
                is_shared = True
                continue
            target = target if target is not None else self._target(path, array, n_chunk)
            target[part] = array[part]
            self.written.n_written += 1
            self.written.raw_bytes += array[part].nbytes
        if is_shared and target is None and not self._share(before, f"{path}/{METADATA}"):
            self._target(path, array, n_chunk)
        self.facts[path] = facts
        self.written.n_chunks += len(parts)

    def _share(self, before: Path | None, name: str) -> bool:
        """Give a file of the generation before a second name, or copy it; return whether it was there."""
        if before is None:
            return False
        old, new = before / name, self.place.directory / name
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new)
        except FileNotFoundError:
            return False
        except OSError:  # no hard links here, or too many of this file
            copy(old, new)
        return True

    def _target(self, path: str, array: NDArray[Any], n_chunk: int) -> Any:
        """Return the Zarr array to write into; chunks that are there already stay."""
        import zarr
        from zarr.codecs import BloscCodec

        # Bytes of equal rank side by side: most of a record's are zero, most of a page table's count up.
        codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=array.itemsize)
        return zarr.create_array(
            self.place.directory,
            name=path,
            shape=array.shape,
            chunks=(n_chunk,),
            dtype=array.dtype,
            compressors=codec,
            fill_value=0,
            zarr_format=3,
        )


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of a generation that is read when it is asked for, by whoever sees the directory.

    A slice of it (``stored[lo:hi]``) is a new NumPy array, of which every chunk was checked.

    Attributes:
        directory: of the arrays.
        path: its own in there.
        facts: what it must be.
    """

    directory: Path
    path: str
    facts: ArrayFacts

    def __len__(self) -> int:
        return self.facts.length

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Read a part.

        Raises:
            CheckpointError: it is missing, of another shape, or a chunk is lost or was changed.
        """
        lo, hi, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"a step of {step}")
        found = np.zeros(max(0, hi - lo), dtype=self.facts.dtype)
        for start, chunk in self._chunks(lo, hi):
            left, right = max(lo, start), min(hi, start + len(chunk))
            found[left - lo : right - lo] = chunk[left - start : right - start]
        return found

    def check(self) -> None:
        """Read all of it, a chunk at a time. Raises as reading does."""
        for _ in self._chunks(0, len(self)):
            pass

    def _chunks(self, lo: int, hi: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the chunks with elements of [lo, hi), whole, each with the position of its first."""
        facts = self.facts
        if facts.sha256 == facts.digests_of_zeros:
            for part in _parts(facts.length, facts.chunk):
                if lo < part.stop and part.start < hi:
                    yield part.start, np.zeros(part.stop - part.start, dtype=facts.dtype)
            return
        try:
            with (
                Folder(self.directory) as folder,
                ChunkReader(
                    folder, (self.path,), np.dtype(facts.dtype), facts.length, chunk=facts.chunk
                ) as stored,
            ):
                yield from self._checked(stored, lo, hi)
        except (UnfitError, OSError) as error:
            raise CheckpointError(said(error, self.directory / self.path)) from None

    def _place_of(self, number: int) -> Path:
        return self.directory / self.path / "c" / str(number)

    def _checked(self, stored: ChunkReader, lo: int, hi: int) -> Iterator[tuple[int, NDArray[Any]]]:
        chunk_length = self.facts.chunk
        for number in range(lo // chunk_length, -(-hi // chunk_length)):
            try:
                chunk = stored.read(number)
            except (UnfitError, OSError) as error:
                raise CheckpointError(said(error, self._place_of(number))) from None
            if digest(chunk.view(np.uint8).data) != self.facts.sha256[number]:
                raise CheckpointError(
                    f"{self._place_of(number)} is missing or was changed (its SHA-256 is wrong)"
                )
            yield number * chunk_length, chunk


@cache
def _digest_of_zeros(n_bytes: int) -> str:
    return digest(bytes(n_bytes))


def _parts(length: int, n_chunk: int) -> Iterator[slice]:
    for start in range(0, length, n_chunk):
        yield slice(start, min(start + n_chunk, length))
