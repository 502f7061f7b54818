"""Files that others made: opened without waiting, read and parsed within bounds.

Whoever reads a file here learns from an :class:`UnfitError` what is wrong with it, and says where and
what to do. Nothing is allocated by what a file says of itself before that was held against the memory
that is available. docs/files.md has who may give us what.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from gpuscan.base.memory import available_bytes
from gpuscan.base.units import format_bytes

MEMORY_DIVISOR = 2
"""What a file is read into may take this part of the memory that is available: one half."""
DEPTH_MAX = 24
"""Lists and tables inside one another. What gpuscan writes has 9; far more would end Python's stack."""
SMALL_BYTES = 16 << 20
"""So much may be taken without asking how much there is."""
JSON_BYTES_MAX = 256 << 20
"""Of a file of JSON beside the arrays: the digests of 64 TiB of memory are 40 MB."""
TEXT_COST = 5
"""Bytes that a byte of text takes while it is parsed: itself, and as a character up to 4."""
_ASCII_COST = 2
TOML_BYTES_MAX = 4 << 20
"""A machine of 1,024 nodes with all its figures has less; parsed, text may take 200 times as much."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
# tomllib takes the square of the parts of a dotted key; minutes for a file of 200 KB.
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_.-]){_KEY}(?:[ \t]*\.[ \t]*{_KEY}){{{DEPTH_MAX}}}")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PIECE_BYTES = 1 << 20


class UnfitError(ValueError):
    """A file is not what it should be; the message goes on after its name: ``is a FIFO, not a file``."""


class JsonError(UnfitError):
    """JSON that ends or breaks.

    Attributes:
        line: where, from 1.
        why: what is wrong there.
    """

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"is cut short or damaged (line {line}: {why})")
        self.line = line
        self.why = why


def room_bytes() -> int:
    """Return how much memory reading one file may take."""
    return available_bytes() // MEMORY_DIVISOR


def check_room(n_bytes: int) -> None:
    """Refuse what would take more than its share of the memory that is available.

    Raises:
        UnfitError: it would.
    """
    room = room_bytes() if n_bytes > SMALL_BYTES else n_bytes
    if n_bytes > room:
        raise UnfitError(
            f"takes {format_bytes(n_bytes)} of memory to read, and {format_bytes(room)} is what may be used "
            f"(1/{MEMORY_DIVISOR} of what is available)"
        )


class Folder:
    """A directory, held: what is opened in it lies in it, whatever happens to names meanwhile.

    Symbolic links are followed on the way to ``path`` and nowhere below it.

    Args:
        path: of the directory.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)
        self._fd = os.open(path, _FLAGS | os.O_DIRECTORY)

    def below(self, *names: str) -> Folder:
        """Return a directory below this one.

        Raises:
            OSError: it cannot be opened.
            UnfitError: it is a symbolic link.
        """
        found = Folder.__new__(Folder)
        found.path, found._fd = "/".join((self.path, *names)), -1
        within = self._fd
        try:
            for name in names:
                deeper = _open(name, os.O_DIRECTORY | os.O_NOFOLLOW, within)
                found.close()
                found._fd = within = deeper
        except BaseException:
            found.close()
            raise
        return found

    def names(self) -> list[str]:
        """Return the names of what is in it."""
        return os.listdir(self._fd)  # noqa: PTH208  # by descriptor

    def read(self, name: str, n_bytes_max: int | None = None) -> bytes:
        """Return the content of a regular file in it; see :func:`read_file`."""
        return _content(_open(name, os.O_NOFOLLOW, self._fd), n_bytes_max)

    def open(self, name: str) -> int:
        """Return a descriptor of a regular file in it, to read from.

        Raises:
            OSError: it cannot be opened.
            UnfitError: it is no regular file.
        """
        fd = _open(name, os.O_NOFOLLOW, self._fd)
        try:
            _check_regular(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_file(path: Path | str, n_bytes_max: int | None = None) -> bytes:
    """Return the content of a file that a user named: links are followed.

    A pipe is read where the shell made it, below ``/dev``; any other might keep us waiting for ever.

    Args:
        path: of the file.
        n_bytes_max: that it may have; None: what is half the memory available.

    Raises:
        OSError: it cannot be opened or read.
        UnfitError: it is no regular file, or is larger than that.
    """
    if str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return _piped(str(path), n_bytes_max)
    return _content(_open(os.fspath(path), 0, None), n_bytes_max)


def open_file(path: Path | str) -> int:
    """Return a descriptor of a regular file that a user named, to read from; see :func:`read_file`."""
    fd = _open(os.fspath(path), 0, None)
    try:
        _check_regular(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def parse_json(text: bytes | bytearray) -> Any:
    """Return the value that JSON text says, if Python can hold it.

    Raises:
        UnfitError: it is no JSON (NaN is none), names a key twice, is nested deeper than
            :data:`DEPTH_MAX`, or would take too much memory.
    """
    check_room(parsed_bytes(text))
    try:
        found = json.loads(text, object_pairs_hook=_table, parse_constant=_no_number)
    except UnfitError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(error.lineno, error.msg) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits; lists in lists in lists
        raise JsonError(1, first_line(error)) from None
    check_depth(found)
    return found


def parsed_bytes(text: bytes | bytearray) -> int:
    """Return how much memory parsing JSON text takes at most, CPython's sizes counted by what makes values.

    Some of the characters may be in strings; then it is less.
    """
    return (
        (_ASCII_COST if text.isascii() else TEXT_COST) * len(text)
        + 80 * text.count(b"[")
        + 190 * text.count(b"{")
        + 36 * text.count(b",")
        + 160 * text.count(b":")
        + 28 * text.count(b'"')
    )


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table that TOML text says.

    Raises:
        UnfitError: it is nested deeper than :data:`DEPTH_MAX`, or more text than :data:`TOML_BYTES_MAX`.
        tomllib.TOMLDecodeError: it is no TOML; says the line.
        ValueError: a number of more digits than Python takes.
    """
    if len(text) > TOML_BYTES_MAX:
        raise UnfitError(f"has more than {format_bytes(TOML_BYTES_MAX)} of text")
    if _LONG_KEY.search(text):
        raise UnfitError(f"has a key of more than {DEPTH_MAX} parts")
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise UnfitError(f"is nested more than {DEPTH_MAX} deep") from None
    check_depth(found)
    return found


def check_depth(value: Any) -> None:
    """Refuse lists and tables that are nested too deep to be shown, compared or written again.

    Raises:
        UnfitError: they are nested deeper than :data:`DEPTH_MAX`.
    """
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if type(outer) is dict else outer if type(outer) is list else ())
            if type(item) in (dict, list)
        ]
        if not level:
            return
    raise UnfitError(f"is nested more than {DEPTH_MAX} deep")


def toml_place(error: tomllib.TOMLDecodeError) -> tuple[str, str]:
    """Return what ``:LINE:COLUMN`` a complaint of tomllib is about ("" for none), and what it says."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
    return (f":{found[2]}:{found[3]}", found[1]) if found else ("", str(error))


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UnfitError(f"names the key {twice[:40]!r} twice")
    return table


def _no_number(text: str) -> NoReturn:
    raise UnfitError(f"says {text}, which is no number")


def _open(name: str, flags: int, folder: int | None) -> int:
    try:
        return os.open(name, _FLAGS | flags, dir_fd=folder)
    except OSError as error:
        # ELOOP and ENOTDIR, by whether a directory was wanted: look at what it is.
        if flags & os.O_NOFOLLOW and _is_link(name, folder):
            raise UnfitError("is a symbolic link, and those are not followed here") from None
        if error.errno == errno.ENXIO:
            raise UnfitError("is a socket or a device, not a file") from None
        raise


def _is_link(name: str, folder: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _check_regular(fd: int) -> os.stat_result:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise UnfitError(f"is {kind}, not a file")
    return found


def _content(fd: int, n_bytes_max: int | None) -> bytes:
    """Return the content of a regular file, and close it."""
    try:
        n_bytes = _check_regular(fd).st_size
        _check_size(n_bytes, n_bytes_max)
        parts = []
        left = n_bytes
        while left and (part := os.read(fd, min(left, 1 << 30))):  # what is appended meanwhile is not read
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(fd)


def _piped(path: str, n_bytes_max: int | None) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            _check_regular(fd)
        content = bytearray()
        while part := os.read(fd, _PIECE_BYTES):
            content += part
            _check_size(len(content), n_bytes_max)
        return bytes(content)
    finally:
        os.close(fd)


def _check_size(n_bytes: int, n_bytes_max: int | None) -> None:
    if n_bytes_max is not None and n_bytes > n_bytes_max:
        raise UnfitError(f"is larger than it can be ({n_bytes:,} bytes, at most {n_bytes_max:,})")
    check_room(n_bytes)


def first_line(error: BaseException) -> str:
    """Return how what an error says begins, or else its name."""
    return str(error).partition("\n")[0][:200] or type(error).__name__
