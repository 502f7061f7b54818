"""The log of what a shard was told since its checkpoint: appended and synced before it is sent.

On disk, entry after entry: 8 bytes each of sequence number, number of frames, checksum of what follows
(CRC-32), then the length of every frame, then the frames. An entry that was cut short was never sent:
reading ends before it, and the next one replaces it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from gpuscan.checkpoint.arrays import sync_path
from gpuscan.errors import RunFailedError
from gpuscan.shards.messages import Frames
from gpuscan.writing import writing_to

_HEAD = struct.Struct("<QQQ")
_LENGTH = struct.Struct("<Q")


class RequestLog:
    """The log of one shard.

    Args:
        path: the file; what is in it is kept.

    Raises:
        RunFailedError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing_to(path):
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new:
                sync_path(path.parent)
        self._end = 0
        self.first_seq = self.last_seq = 0
        for seq, _, end in self._entries():
            self.first_seq = self.first_seq or seq
            self.last_seq, self._end = seq, end

    @property
    def n_bytes(self) -> int:
        """Bytes of whole entries."""
        return self._end

    def append(self, seq: int, frames: Frames) -> None:
        """Add a message; when this returns it is on the disk.

        Raises:
            RunFailedError: a number is missing before it, or the system refused the write.
        """
        if self.last_seq and seq != self.last_seq + 1:
            raise RunFailedError(
                f"{self.path}: message {seq} cannot follow {self.last_seq}, one is missing; "
                "this is a bug in gpuscan, report it"
            )
        lengths = b"".join(_LENGTH.pack(frame.nbytes) for frame in frames)
        head = _HEAD.pack(seq, len(frames), _checksum(lengths, frames))
        with writing_to(self.path):
            os.lseek(self._file, self._end, os.SEEK_SET)
            written = _write_all(self._file, [head, lengths, *(frame.data for frame in frames)])
            os.ftruncate(self._file, self._end + written)
            os.fdatasync(self._file)
        self.first_seq = self.first_seq or seq
        self.last_seq, self._end = seq, self._end + written

    def after(self, seq: int) -> Iterator[tuple[int, Frames]]:
        """Yield the messages after ``seq`` with their numbers, ascending.

        Raises:
            RunFailedError: one of them is not there, or is damaged.
        """
        expected = seq + 1
        if self.first_seq > expected:
            raise RunFailedError(
                f"{self.path} begins with message {self.first_seq}, the checkpoint ends with {seq}: some are "
                "missing, so the shard cannot be restored; start the run again"
            )
        reached = seq
        for number, frames, _ in self._entries():
            if number >= expected:
                yield number, frames
                reached = number
        if reached < self.last_seq:
            raise RunFailedError(
                f"{self.path} can be read up to message {reached}, and {self.last_seq} was written: its end "
                "is lost or damaged, so the shard cannot be restored; start the run again"
            )

    def cut(self, seq: int) -> None:
        """Forget everything up to ``seq``: a checkpoint that is on the disk has it.

        Raises:
            ValueError: the log goes on after it; shards are at rest when they are written.
        """
        if seq < self.last_seq:
            raise ValueError(f"the log has messages up to {self.last_seq}, a checkpoint has them up to {seq}")
        self.begin_after(seq)

    def begin_after(self, seq: int) -> None:
        """Forget everything, whoever wrote it: the next message is the one after ``seq``.

        Raises:
            RunFailedError: the system refused it.
        """
        with writing_to(self.path):
            os.ftruncate(self._file, 0)
            os.fdatasync(self._file)
        self._end = self.first_seq = 0
        self.last_seq = seq

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _entries(self) -> Iterator[tuple[int, Frames, int]]:
        """Yield sequence number, frames and end of every whole entry."""
        position, size, last = 0, os.fstat(self._file).st_size, 0
        while position + _HEAD.size <= size:
            seq, n_frames, checksum = _HEAD.unpack(os.pread(self._file, _HEAD.size, position))
            start = position + _HEAD.size
            if start + n_frames * _LENGTH.size > size or (last and seq != last + 1):
                return
            lengths = os.pread(self._file, n_frames * _LENGTH.size, start)
            sizes = [length for (length,) in _LENGTH.iter_unpack(lengths)]
            start += len(lengths)
            if start + sum(sizes) > size:
                return
            frames = []
            for length in sizes:
                frame = np.empty(length, dtype=np.uint8)
                _read_all(self._file, frame, start)
                frames.append(frame)
                start += length
            if checksum != _checksum(lengths, frames):
                return
            yield seq, frames, start
            position, last = start, seq


def _checksum(lengths: bytes, frames: Frames) -> int:
    checksum = zlib.crc32(lengths)
    for frame in frames:
        checksum = zlib.crc32(frame.data, checksum)
    return checksum


def _write_all(file: int, parts: list[bytes | memoryview]) -> int:
    """Write everything where the file stands; a system call writes 2 GiB at most."""
    total = 0
    for part in parts:
        left = memoryview(part)
        while left:
            done = os.write(file, left)
            left = left[done:]
            total += done
    return total


def _read_all(file: int, into: np.ndarray[tuple[int], np.dtype[np.uint8]], position: int) -> None:
    left = into.data
    while left:
        done = os.preadv(file, [left], position)
        if not done:
            raise EOFError(position)
        left, position = left[done:], position + done
