"""The log of what a shard was told since its checkpoint: appended and synced before it is sent.

On disk a line that says what it is, then entry after entry: 8 bytes each of a mark that is always the same,
sequence number, number of frames, and CRC-32 of the sequence number and all that follows; then the length of
every frame, then the frames. An entry at the end that was cut short was never sent: reading ends before it,
and the next one replaces it. One that cannot be read and has a whole one behind it was sent, and is damaged:
the mark is what finds that one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from gpuscan.base.errors import CheckpointError, InputError, RunFailedError
from gpuscan.files.owned import note_left, opened, remove_tree
from gpuscan.files.reading import UnfitError, check_room
from gpuscan.files.writing import new_file, open_kept, writing_to
from gpuscan.shards.messages import Frames

TITLE = b"log of a shard of gpuscan\n"
_NAME = re.compile(r"shard-(0|[1-9][0-9]{0,5})\.log")
_MARK = bytes.fromhex("c76b1f9d02e8a453")
_HEAD = struct.Struct("<8sQQQ")
_LENGTH = struct.Struct("<Q")
_FRAMES_MAX = 1 << 16
"""Of a message: an object has a frame, and each of its arrays."""
_LOOKS_MAX = 8
"""Times a damaged log is read at most to find a whole message behind the damage."""


def log_path(directory: Path, shard: int) -> Path:
    """Return where the log of a shard is."""
    return directory / f"shard-{shard}.log"


def remove_logs(directory: Path, n_shards: int) -> None:
    """Remove the logs that an earlier run left; what else is called like one is left, and named.

    Args:
        directory: of the logs.
        n_shards: of this run, whose names must be free.

    Raises:
        InputError: one is not, because gpuscan did not write what has it, or a run is at work there.
        OSError: the system refused it.
    """
    left = []
    earlier = []
    for path in sorted(directory.iterdir()):
        named = _NAME.fullmatch(path.name)
        if named is None:
            continue
        try:
            with RequestLog(path, must_exist=True, is_earlier=True):
                earlier.append(path)
        except InputError:
            if int(named[1]) < n_shards:
                raise
            left.append(f"{path.name} (gpuscan did not make it, or is at work there)")
    note_left(directory, left)
    with opened(directory) as handle:
        for path in earlier:
            remove_tree(path.name, dir_fd=handle)
        os.fsync(handle)


class RequestLog:
    """The log of one shard, locked: nobody else opens it meanwhile.

    Args:
        path: the file; what is in it is kept.
        must_exist: it was begun by somebody else; not being there, it is lost.
        is_earlier: what is in it counts for nobody, and is not read.

    Raises:
        CheckpointError: it is not there and should be, or is damaged in the middle.
        InputError: something that gpuscan did not write has its name, or another process has it open.
        RunFailedError: it cannot be opened.
    """

    def __init__(self, path: Path, *, must_exist: bool = False, is_earlier: bool = False) -> None:
        self.path = path
        self._file = -1
        if not os.path.lexists(path):
            if must_exist:
                raise CheckpointError(
                    f"{path} is not there, and with it what the shard was told; bring it back, or start anew"
                )
            with new_file(path) as file:
                file.write(TITLE)
        try:
            with writing_to(path):
                self._file = open_kept(path)
                # Collected, it is closed: no lock stays behind a run that broke off.
                self._closing = weakref.finalize(self, os.close, self._file)
                self._check_ours()
            self._n_looked_at = 0  # bytes of frames whose checksum was wanted
            self._end = len(TITLE)
            self.first_seq = self.last_seq = 0
            if not is_earlier:
                self._read()
        except BaseException:
            self.close()
            raise

    def _check_ours(self) -> None:
        if os.pread(self._file, len(TITLE), 0) != TITLE:
            raise InputError(f"{self.path} was not written by gpuscan; give another directory for shards")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process has shards in {self.path.parent}; wait for its end, or give another "
                "directory"
            ) from None

    def _read(self) -> None:
        path = self.path
        for seq, _, end in self._entries():
            self.first_seq = self.first_seq or seq
            self.last_seq, self._end = seq, end
        later = self._whole_entry_after(self._end)
        if later:
            raise CheckpointError(
                f"{path} is damaged: it reads up to message {self.last_seq}, and {later} is behind that; "
                "bring back a copy, or start anew"
            )

    @property
    def n_bytes(self) -> int:
        """Bytes of whole entries."""
        return self._end - len(TITLE)

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
            os.ftruncate(self._file, len(TITLE))
            os.fdatasync(self._file)
        self._end, self.first_seq = len(TITLE), 0
        self.last_seq = seq

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            self._file = -1
            self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _entries(self) -> Iterator[tuple[int, Frames, int]]:
        """Yield sequence number, frames and end of every whole entry."""
        position, last = len(TITLE), 0
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
