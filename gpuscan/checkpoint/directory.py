"""A directory of checkpoints: at most two generations, each whole or not there.

On disk::

    DIR/lock                          held (flock) by the one process that writes here; its text is our mark
        checkpoint-00000041/          the generation before
        checkpoint-00000042/          the newest
            gpuscan-mark              says that it is ours (gpuscan.files.owned)
            state.json                schema, kind, plain values, the facts of every array
            arrays/                   a Zarr group (v3) of them

A generation is filled as ``checkpoint-N.X.tmp`` (X is random), synced, renamed, and the directory synced;
only then is the one before last removed, under another name first (``checkpoint-N.X.old``). So whoever is
killed, whenever, leaves the newest generation that had its name, and what else is there is swept by
the next one who writes. What has such a name and no mark inside is left, and named.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuscan.base.documents import shown, table
from gpuscan.base.errors import CheckpointError, InputError, RunFailedError
from gpuscan.checkpoint.arrays import (
    ArrayFacts,
    ArrayPlace,
    ArrayWriter,
    StoredArray,
    Written,
)
from gpuscan.checkpoint.state import State, canonical, digest, join, split
from gpuscan.files.chunks import check_group, read_metadata, said
from gpuscan.files.owned import let_go, make_owned, note_left, opened, remove_owned, why_not_owned
from gpuscan.files.reading import JSON_BYTES_MAX, Folder, UnfitError, check_room, parse_json
from gpuscan.files.settled import settled
from gpuscan.files.writing import create, open_kept, sync, sync_path

SCHEMA = 3
"""Goes up when a reader of the old layout would misread the new one."""

STATE_FILE = "state.json"
_ARRAYS = "arrays"
_LOCK = "lock"
_LOCK_TEXT = b"gpuscan keeps checkpoints here\n"
_MARK_TEXT = "a checkpoint of gpuscan\n"
_OURS = re.compile(r"lock|(ticks|plans)\.log|checkpoint-[0-9]{8,}.*")
_NAME = re.compile(r"checkpoint-([0-9]{8,})")
_PATH = re.compile(r"[a-z0-9_]{1,64}(\.[a-z0-9_]{1,64}){0,9}")
_PASSING = re.compile(r"checkpoint-[0-9]{8,}(\.[0-9a-f]{8})?\.(tmp|old)")


class CheckpointDirectory:
    """Writes the generations of one directory; the only one to do so while it is open.

    Args:
        path: the directory; made where it is not there (its parent is).
        kind: what the states are of; a directory of another kind is refused.

    Raises:
        InputError: ``path`` holds what gpuscan did not write, somebody else writes to it, or its parent
            is not there.
        RunFailedError: the system refused it.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path.absolute()
        self.kind = kind
        _check_place(self.path)
        try:
            if not self.path.is_dir():
                self.path.mkdir(exist_ok=True)
                sync_path(self.path.parent)
            # Collected, it is closed: no lock stays.
            self._lock = os.fdopen(open_kept(self.path / _LOCK), "r+b", buffering=0)
        except OSError as error:
            raise RunFailedError(
                f"cannot write {path}: {error.strerror}; give another place for checkpoints"
            ) from error
        try:
            self._take_lock()
            self._sign()
            self._sweep()
        except BaseException:
            self._lock.close()
            raise

    def save(self, state: Mapping[str, Any]) -> Written:
        """Write a state as the newest generation; when this returns, it is on the disk.

        Args:
            state: see :mod:`gpuscan.checkpoint.state`.

        Raises:
            RunFailedError: the system refused a write, on a full disk for example. The generations that
                were there are as they were.
        """
        known = generations(self.path)
        before = known[-1] if known else None
        number = (before or 0) + 1
        # A name of its own: a shard of an engine that was killed may still write to that one's.
        beside = self.path / f"{_name(number)}.{secrets.token_hex(4)}.tmp"
        try:
            with settled():
                written = self._fill(beside, state, before)
            self._rename(beside.name, _name(number))
            sync_path(self.path)
        except OSError as error:
            self._discard(beside.name)
            said = os.strerror(error.errno) if error.errno else str(error)
            left = "" if before is None else f"; the one before is whole ({self.path / _name(before)})"
            raise RunFailedError(
                f"cannot write a checkpoint to {self.path}: {said}{left}; make room and go on from there"
            ) from error
        except BaseException:
            self._discard(beside.name)
            raise
        for old in known[:-1]:
            with suppress(OSError):  # it costs room, nothing else; the next writer names it
                self._remove(old)
        return written

    def go_back_to(self, place: Path | None) -> None:
        """Give up the generations newer than ``place``, one of this directory (None: all of them).

        Raises:
            RunFailedError: the system refused it.
        """
        for number in reversed(generations(self.path)):
            if place is not None and _name(number) == place.name:
                break
            try:
                self._remove(number)
            except OSError as error:
                said = error.strerror or str(error)
                raise RunFailedError(
                    f"cannot remove {self.path / _name(number)}: {said}; remove it yourself"
                ) from error

    def _fill(self, beside: Path, state: Mapping[str, Any], before: int | None) -> Written:
        facts_before: dict[str, ArrayFacts] = {}
        directory_before = None
        if before is not None:
            directory_before = self.path / _name(before) / _ARRAYS
            with suppress(CheckpointError):  # then nothing of it is shared
                facts_before = _facts(_read_body(self.path / _name(before), self.kind))
        with opened(self.path) as handle:
            make_owned(beside.name, _MARK_TEXT, dir_fd=handle)
        place = ArrayPlace.make(beside / _ARRAYS, directory_before, facts_before)
        writer = ArrayWriter(place)
        plain, arrays, elsewhere = split(state)
        for path, owner in elsewhere.items():
            facts, written = owner.write_arrays(place.below(path), path)
            writer.facts |= facts
            writer.written.add(written)
        for path, array in arrays.items():
            writer.write(path, array)
        body = canonical(
            {"state": plain, "arrays": {path: asdict(facts) for path, facts in writer.facts.items()}}
        )
        head = f'{{"schema":{SCHEMA},"kind":{json.dumps(self.kind)},"sha256":"{digest(body.encode())}",\n'
        with create(beside / STATE_FILE) as file:
            file.write(f'{head}"body":{body}}}\n'.encode())
        sync(beside)
        return writer.written

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process writes checkpoints to {self.path}; wait for its end, or give another place"
            ) from None
        except OSError as error:
            raise RunFailedError(
                f"cannot lock {self.path / _LOCK}: {error.strerror}; give a place whose file system has "
                "locks (flock), or mount it with them"
            ) from error

    def _sweep(self) -> None:
        """Remove what a killed writer left: nobody else writes here while the lock is held."""
        left = []
        for name in sorted(entry.name for entry in self.path.iterdir() if _PASSING.fullmatch(entry.name)):
            why = self._discard(name)
            if why:
                left.append(f"{name} ({why})")
        for old in generations(self.path)[:-2]:
            try:
                self._remove(old)
            except OSError as error:
                left.append(f"{_name(old)} ({error.strerror or error})")
        note_left(self.path, left)

    def _sign(self) -> None:
        """Say in the lock file that the directory is ours, unless it does.

        Raises:
            InputError: the file says something else, or says nothing yet and others are there already.
            RunFailedError: the system refused it.
        """
        try:
            found = self._lock.read(len(_LOCK_TEXT) + 1)
            if found == _LOCK_TEXT:
                return
            names = sorted(entry.name for entry in self.path.iterdir() if not _OURS.fullmatch(entry.name))
            if names or not _LOCK_TEXT.startswith(found):
                foreign = names[0] if names else _LOCK
                raise InputError(
                    f"{self.path} holds {foreign}, which gpuscan did not write; give another place for "
                    "checkpoints"
                )
            self._lock.seek(0)
            self._lock.write(_LOCK_TEXT)
        except OSError as error:
            raise RunFailedError(
                f"cannot write {self.path / _LOCK}: {error.strerror}; give another place for checkpoints"
            ) from error

    def _remove(self, number: int) -> None:
        """Remove a generation; what is left of it under its passing name, the next writer sweeps.

        Raises:
            OSError: it is not ours, or the system refused it; then it is there as it was.
        """
        name = _name(number)
        with opened(self.path) as handle:
            generation = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
            )
            try:
                why = why_not_owned(generation, _MARK_TEXT, self._owners(handle))
            finally:
                let_go(generation)
            if why:
                raise OSError(why)
        going = f"{name}.{secrets.token_hex(4)}.old"
        self._rename(name, going)
        self._discard(going)

    def _rename(self, name: str, new_name: str) -> None:
        with opened(self.path) as handle:
            os.rename(name, new_name, src_dir_fd=handle, dst_dir_fd=handle)

    def _discard(self, name: str) -> str:
        """Remove a directory with our mark; return why it is still there, if it is."""
        try:
            with opened(self.path) as handle:
                return remove_owned(name, _MARK_TEXT, dir_fd=handle, owners=self._owners(handle))
        except OSError as error:
            return os.strerror(error.errno or 0)

    @staticmethod
    def _owners(handle: int) -> tuple[int]:
        """Return whose a generation may be besides ours: the directory's owner could remove it too."""
        return (os.fstat(handle).st_uid,)

    def close(self) -> None:
        """Let others write here. Idempotent."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def generations(path: Path) -> list[int]:
    """Return the numbers of the generations of a directory, ascending."""
    found = (_NAME.fullmatch(entry.name) for entry in path.iterdir())
    return sorted(int(match[1]) for match in found if match)


def load(path: Path, kind: str, later: str | None = None) -> tuple[State, Path]:
    """Read the newest generation of a directory, or the very generation that ``path`` is.

    The digests find damage and no malice: who made the directory can have signed anything. So the
    arrays are of known types, whole and within memory, and everything else is a JSON value of any kind:
    whoever takes it checks it (:mod:`gpuscan.base.documents`).

    Args:
        path: see above.
        kind: what it must be of.
        later: the path below which arrays are checked now, and read by whoever needs them: they are
            :class:`gpuscan.checkpoint.arrays.StoredArray`.

    Returns:
        The state, and the directory of the generation it is from.

    Raises:
        CheckpointError: there is none, it is damaged, of another kind, or of a newer schema.
    """
    newest = find(path)
    try:
        return _load(newest, kind, later), newest
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_remedy(newest, kind)}") from None


def find(path: Path) -> Path:
    """Return the newest generation of a directory, or the very generation that ``path`` is.

    Raises:
        CheckpointError: there is none.
    """
    path = path.absolute()
    try:
        if _NAME.fullmatch(path.name) and path.is_dir():
            return path
        if not path.is_dir():
            raise CheckpointError(f"{path} is not a directory of checkpoints; give the one of --checkpoint")
        known = generations(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    if not known:
        raise CheckpointError(
            f"{path} holds no checkpoint (none was finished); run again from the start, or give another one"
        )
    return path / _name(known[-1])


def _remedy(damaged: Path, kind: str) -> str:
    """Return what to do about a generation that cannot be read: is another one whole?"""
    for number in reversed(generations(damaged.parent)):
        other = damaged.parent / _name(number)
        if other == damaged:
            continue
        with suppress(CheckpointError):
            for array in _stored(other, _read_body(other, kind)).values():
                array.check()
            return f"{other} is whole: resume that"
    return "no other one here is whole: run again from the start, or bring back a copy"


def _load(directory: Path, kind: str, later: str | None) -> State:
    body = _read_body(directory, kind)
    stored = _stored(directory, body)
    now: dict[str, StoredArray] = {}
    below: dict[str, StoredArray] = {}
    for path, array in stored.items():
        (below if later is not None and path.startswith(f"{later}.") else now)[path] = array
    try:
        check_room(sum(array.facts.n_bytes for array in now.values()))
    except UnfitError as error:
        raise CheckpointError(f"{directory} {error}") from None
    for array in below.values():
        array.check()
    try:
        return join(body["state"], {**{path: array[:] for path, array in now.items()}, **below})
    except ValueError as error:
        raise CheckpointError(f"{directory / STATE_FILE} is damaged ({error})") from None


def _stored(directory: Path, body: Mapping[str, Any]) -> dict[str, StoredArray]:
    try:
        facts = _facts(body)
    except ValueError as error:
        raise CheckpointError(f"{directory / STATE_FILE} is damaged ({error})") from None
    try:
        with Folder(directory / _ARRAYS) as folder:
            check_group(read_metadata(folder))
    except (UnfitError, OSError) as error:
        raise CheckpointError(said(error, directory / _ARRAYS)) from None
    return {path: StoredArray(directory / _ARRAYS, path, fact) for path, fact in facts.items()}


def _read_body(directory: Path, kind: str) -> dict[str, Any]:
    place = directory / STATE_FILE
    try:
        with Folder(directory) as folder:
            found = table(
                parse_json(folder.read(STATE_FILE, JSON_BYTES_MAX)),
                "it",
                ("schema", "kind", "sha256", "body"),
            )
    except FileNotFoundError:
        raise CheckpointError(f"{place} is not there, so this is no checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {place}: {error.strerror}") from None
    except UnfitError as error:
        raise CheckpointError(f"{place} {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{place} is cut short or damaged ({error})") from None
    schema = found["schema"]
    if type(schema) is not int or not 0 < schema <= SCHEMA:
        raise CheckpointError(
            f"{directory} is of schema {shown(schema)}, and this gpuscan reads up to {SCHEMA} "
            "(a newer one reads it)"
        )
    if found["kind"] != kind:
        raise CheckpointError(f"{directory} is a checkpoint of a {str(found['kind'])[:40]}, not of a {kind}")
    body = found["body"]
    if not isinstance(body, dict) or digest(_canonical(place, body)) != found["sha256"]:
        raise CheckpointError(f"{place} was changed (its SHA-256 is wrong)")
    if body.keys() != {"state", "arrays"} or not all(type(half) is dict for half in body.values()):
        raise CheckpointError(f"{place} is damaged: it has no state, or no arrays")
    return body


def _canonical(place: Path, body: dict[str, Any]) -> bytes:
    try:
        return canonical(body).encode()
    except ValueError as error:  # half of a pair of UTF-16; 1e999, which is infinity
        raise CheckpointError(f"{place} is damaged ({str(error)[:80]})") from None


def _facts(body: Mapping[str, Any]) -> dict[str, ArrayFacts]:
    """Return the facts of all arrays by path.

    Raises:
        ValueError: they are no such facts.
    """
    for path in body["arrays"]:
        if _PATH.fullmatch(path) is None:
            raise ValueError(f"{shown(path)} is not the path of an array")
    return {path: ArrayFacts.of(facts) for path, facts in body["arrays"].items()}


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"the directory {path.parent} is not there; make it, or give another place")
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is not a directory; give another place for checkpoints")
    names = {entry.name for entry in path.iterdir()}
    if names and _LOCK not in names:
        raise InputError(f"{path} holds files that gpuscan did not write; give another place for checkpoints")


def _name(number: int) -> str:
    return f"checkpoint-{number:08}"
