"""The log of what a shard was told since its checkpoint: appended and synced before it is sent.

On disk, entry after entry: 8 bytes each of a mark that is always the same, sequence number, number of
frames, and CRC-32 of the sequence number and all that follows; then the length of every frame, then the
frames. An entry at the end that was cut short was never sent: reading ends before it, and the next one
replaces it. One that cannot be read and has a whole one behind it was sent, and is damaged: the mark is
what finds that one.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from gpuscan.checkpoint.arrays import sync_path
from gpuscan.errors import CheckpointError, RunFailedError
from gpuscan.reading import UnfitError, check_room
from gpuscan.shards.messages import Frames
from gpuscan.writing import writing_to

_MARK = bytes.fromhex("c76b1f9d02e8a453")
_HEAD = struct.Struct("<8sQQQ")
_LENGTH = struct.Struct("<Q")
_FRAMES_MAX = 1 << 16
"""Of a message: an object has a frame, and each of its arrays."""
_LOOKS_MAX = 8
"""Times a damaged log is read at most to find a whole message behind the damage."""


class RequestLog:
    """The log of one shard.

    Args:
        path: the file; what is in it is kept.
        must_exist: it was begun by somebody else; not being there, it is lost.

    Raises:
        CheckpointError: it is not there and should be, or is damaged in the middle.
        RunFailedError: it cannot be opened.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        with writing_to(path):
            is_new = not path.exists()
            if is_new and must_exist:
                raise CheckpointError(
                    f"{path} is not there, and with it what the shard was told; bring it back, or start anew"
                )
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new:
                sync_path(path.parent)
        self._n_looked_at = 0  # bytes of frames whose checksum was wanted
        self._end = 0
        self.first_seq = self.last_seq = 0
        for seq, _, end in self._entries():
            self.first_seq = self.first_seq or seq
            self.last_seq, self._end = seq, end
        later = self._whole_entry_after(self._end)
        if later:
            self.close()
            raise CheckpointError(
                f"{path} is damaged: it reads up to message {self.last_seq}, and {later} is behind that; "
                "bring back a copy, or start anew"
            )

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
        head = _HEAD.pack(_MARK, seq, len(frames), _checksum(seq, lengths, frames))
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
        position = last = 0
        while (entry := self._entry_at(position)) is not None:
            seq, frames, position = entry
            if last and seq != last + 1:
                return
            yield seq, frames, position
            last = seq

    def _entry_at(self, position: int) -> tuple[int, Frames, int] | None:
        """Return sequence number, frames and end of the whole entry at a byte, None without one."""
        size, start = os.fstat(self._file).st_size, position + _HEAD.size
        if start > size:
            return None
        mark, seq, n_frames, checksum = _HEAD.unpack(os.pread(self._file, _HEAD.size, position))
        if mark != _MARK or n_frames > _FRAMES_MAX or start + n_frames * _LENGTH.size > size:
            return None
        lengths = os.pread(self._file, n_frames * _LENGTH.size, start)
        sizes = [length for (length,) in _LENGTH.iter_unpack(lengths)]
        start += len(lengths)
        if start + sum(sizes) > size:
            return None
        self._n_looked_at += sum(sizes)
        try:
            check_room(sum(sizes))
        except UnfitError as error:
            self.close()
            raise CheckpointError(f"{self.path} has a message that {error}; free memory") from None
        frames = []
        for length in sizes:
            frame = np.empty(length, dtype=np.uint8)
            _read_all(self._file, frame, start)
            frames.append(frame)
            start += length
        return (seq, frames, start) if checksum == _checksum(seq, lengths, frames) else None

    def _whole_entry_after(self, position: int) -> int:
        """Return the sequence number of a whole entry that begins behind a byte at which none does, or 0."""
        if os.fstat(self._file).st_size <= position:
            return 0
        with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as content:
            most = self._n_looked_at + _LOOKS_MAX * len(content)
            while (position := content.find(_MARK, position)) >= 0:
                if self._n_looked_at > most:  # a mark may be in a frame by chance, not again and again
                    return self.last_seq + 1
                entry = self._entry_at(position)
                if entry is not None and entry[0] > self.last_seq:
                    return entry[0]
                position += 1
        return 0


def _checksum(seq: int, lengths: bytes, frames: Frames) -> int:
    checksum = zlib.crc32(lengths, zlib.crc32(_LENGTH.pack(seq)))
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
