"""The files of a machine's /proc and /sys, wherever they are: below a directory, or taken from an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gpuscan.base.errors import TopologyError

FILE_BYTES_MAX = 16 << 20
"""Of one file: /proc/zoneinfo of 1,024 nodes with 1,024 CPUs has less."""
NAMES_MAX = 1 << 20
"""Names in one directory that are looked at."""
NODES, BLOCKS = "sys/devices/system/node", "sys/devices/system/memory"
ZONEINFO, IOMEM = "proc/zoneinfo", "proc/iomem"
GATHERED = "proc/hwloc-nofile-info"
"""What hwloc-gather-topology adds of a machine that is in no file."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PIECE_BYTES = 1 << 18


class FileTree(Protocol):
    """Files by their names below the root, without a slash before: ``proc/zoneinfo``."""

    def read(self, name: str) -> str | None:
        """Return a file's text, None where there is no such file.

        Raises:
            TopologyError: it cannot be read, or is larger than it can be.
        """

    def names(self, directory: str) -> list[str]:
        """Return the names of what is in a directory; none where there is no such directory."""

    def place(self, name: str) -> str:
        """Return what a complaint calls a file."""


class Directory:
    """Files below a directory, such as ``/``."""

    def __init__(self, root: Path) -> None:
        self._before = f"{str(root).rstrip('/')}/"

    def read(self, name: str) -> str | None:
        """See :meth:`FileTree.read`. Files of procfs have no size: what is read is bounded."""
        path = self._before + name
        try:
            fd = os.open(path, _FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise TopologyError(
                    f"{path} cannot be read (it is no file); give the tree of a kernel's /proc and /sys"
                )
            content = bytearray()
            while piece := os.read(fd, _PIECE_BYTES):
                content += piece
                check_size(path, len(content))
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from error
        finally:
            os.close(fd)
        return content.decode(errors="replace")

    def names(self, directory: str) -> list[str]:
        """See :meth:`FileTree.names`."""
        found: list[str] = []
        with suppress(OSError), os.scandir(self._before + directory) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) > NAMES_MAX:
                    raise TopologyError(
                        f"{self.place(directory)} has more than {NAMES_MAX:,} names; "
                        "give a tree of /proc and /sys"
                    )
        return found

    def place(self, name: str) -> str:
        """See :meth:`FileTree.place`."""
        return self._before + name


class Files:
    """Files that were taken out of something else.

    Args:
        source: what they were in.
        texts: by name.
        others: names of what has no text, such as directories and links.
    """

    def __init__(self, source: str, texts: Mapping[str, str], others: frozenset[str]) -> None:
        self._source = source
        self._texts = texts
        self._names: dict[str, set[str]] = {}
        for name in (*texts, *others):
            while name:
                directory, _, last = name.rpartition("/")
                self._names.setdefault(directory, set()).add(last)
                name = directory

    def read(self, name: str) -> str | None:
        """See :meth:`FileTree.read`."""
        return self._texts.get(name)

    def names(self, directory: str) -> list[str]:
        """See :meth:`FileTree.names`."""
        return sorted(self._names.get(directory, ()))

    def place(self, name: str) -> str:
        """See :meth:`FileTree.place`."""
        return f"{self._source}:{name}"


def check_size(place: str, n_bytes: int) -> None:
    """Refuse a file of a tree that is larger than any can be.

    Raises:
        TopologyError: it is.
    """
    if n_bytes > FILE_BYTES_MAX:
        raise TopologyError(
            f"{place} has more than {FILE_BYTES_MAX:,} bytes; give the file as the kernel writes it"
        )


def _unreadable(place: str, why: str) -> TopologyError:
    return TopologyError(f"{place} cannot be read ({why}); run as a user who may read it")
