"""Directories that say inside whose they are: the only ones that gpuscan removes.

Each has a file :data:`MARK` with a text that its maker knows, and belongs to whom this process runs as. The
mark is written before anything else and goes last, so whoever is killed, whenever, leaves something that is
known again. One that is made for a while has its maker in its name besides, so that only what nobody needs
any more is swept: host, boot, PID namespace, process and when that started (a number that was given out again
is another process), and a random part. Everything is opened relative to a directory's handle, links are not
followed, and a FIFO is waited for by nobody.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "gpuscan-mark"
"""Name of the file in a directory of ours that says so."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_IDENTITY = re.compile(r"([0-9a-f]{6})([0-9a-f]{6})([0-9a-f]{6})-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{12}")


def let_go(handle: int) -> None:
    """Close a handle through which nothing was written: no failure of that matters."""
    with suppress(OSError):
        os.close(handle)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a handle of a directory, for names in it.

    Raises:
        OSError: it is none, or may not be read.
    """
    handle = os.open(path, _DIRECTORY)
    try:
        yield handle
    finally:
        let_go(handle)


def make_owned(name: str, text: str, *, dir_fd: int, mode: int = 0o777) -> None:
    """Make a directory that carries ``text``.

    Args:
        name: in ``dir_fd``.
        text: of the mark.
        dir_fd: handle of the directory to make it in.
        mode: its permissions, less the umask.

    Raises:
        OSError: it cannot be made; nothing is left, unless removing it was refused too.
    """
    os.mkdir(name, mode, dir_fd=dir_fd)
    try:
        inside = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_IT_IS
            with os.fdopen(os.open(MARK, flags, 0o644, dir_fd=inside), "wb") as file:
                file.write(text.encode())
        finally:
            let_go(inside)
    except BaseException:
        remove_owned(name, text, dir_fd=dir_fd)
        raise


def why_not_owned(handle: int, text: str, owners: Iterable[int] = ()) -> str:
    """Say why a directory is not one that carries ``text``; empty if it is.

    One that holds nothing, or nothing but the beginning of its mark, is: its maker was killed there, and
    nothing of anybody's is lost with it.

    Args:
        handle: of the directory.
        text: of its mark.
        owners: users whose it may be, this process's among them.
    """
    if os.fstat(handle).st_uid not in {os.geteuid(), *owners}:
        return "it belongs to another user"
    names = os.listdir(handle)
    if not names:
        return ""
    try:
        mark = os.open(MARK, os.O_RDONLY | _AS_IT_IS, dir_fd=handle)
    except OSError:
        return "gpuscan did not make it"
    try:
        found = os.fstat(mark)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {os.geteuid(), *owners}:
            return "gpuscan did not make it"
        content = os.read(mark, len(text.encode()) + 1)
    finally:
        let_go(mark)
    is_begun = names == [MARK] and text.encode().startswith(content)
    return "" if is_begun or content == text.encode() else "gpuscan did not make it"


def remove_owned(name: str, text: str, *, dir_fd: int, owners: Iterable[int] = ()) -> str:
    """Remove a directory that carries ``text``, and nothing else; return why it is still there, if it is.

    Args:
        name: in ``dir_fd``.
        text: of its mark.
        dir_fd: handle of the directory it is in.
        owners: see :func:`why_not_owned`.
    """
    try:
        handle = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it is no directory of gpuscan's ({os.strerror(error.errno or 0)})"
    try:
        why = why_not_owned(handle, text, owners)
        if why:
            return why
        for entry in os.listdir(handle):  # noqa: PTH208 (by its handle)
            if entry != MARK:
                remove_tree(entry, dir_fd=handle)
        with suppress(FileNotFoundError):
            os.unlink(MARK, dir_fd=handle)
        os.rmdir(name, dir_fd=dir_fd)
    except OSError as error:
        return f"it cannot be removed ({os.strerror(error.errno or 0)})"
    finally:
        let_go(handle)
    return ""


def remove_tree(name: str | Path, *, dir_fd: int | None = None) -> None:
    """Remove a file, a link, or a directory with all in it, which is ours as a whole. No link is followed.

    Raises:
        OSError: something refused it; what was removed by then is gone.
    """
    if stat.S_ISDIR(os.lstat(name, dir_fd=dir_fd).st_mode):
        assert shutil.rmtree.avoids_symlink_attacks
        shutil.rmtree(name, dir_fd=dir_fd)
    else:
        os.unlink(name, dir_fd=dir_fd)


@dataclass(frozen=True, slots=True)
class Temporary:
    """A directory of ours for a while, in another one, which nobody else may look into.

    Attributes:
        name: of it.
        dir_fd: handle of the directory it is in; its owner closes it after :meth:`remove`.
    """

    name: str
    dir_fd: int

    @classmethod
    def make(cls, stem: str, dir_fd: int) -> Temporary:
        """Make one.

        Raises:
            OSError: it cannot be made.
        """
        host, boot, namespace = _here()
        me = os.getpid()
        name = f"{stem}-{host}{boot}{namespace}-{me}-{_start_ticks(me)}-{secrets.token_hex(6)}"
        make_owned(name, _mark_of(name), dir_fd=dir_fd, mode=0o700)
        return cls(name, dir_fd)

    def open(self) -> int:
        """Return a handle of it, which the caller closes."""
        return os.open(self.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.dir_fd)

    def remove(self) -> str:
        """Remove it and all in it; return why it is still there, if it is."""
        return remove_owned(self.name, _mark_of(self.name), dir_fd=self.dir_fd)


def abandoned(stem: str, dir_fd: int, left: list[str]) -> Iterator[Temporary]:
    """Yield what makers that are gone left in a directory under names that begin with ``stem``.

    Args:
        stem: as it was made with.
        dir_fd: handle of the directory.
        left: gets, as ``NAME (why)``, what has such a name and is not ours, or may be needed.
    """
    for name in sorted(os.listdir(dir_fd)):
        if not name.startswith(f"{stem}-"):
            continue
        found = _IDENTITY.fullmatch(name[len(stem) + 1 :])
        if found is None:
            left.append(f"{name} (gpuscan did not make it)")
            continue
        host, boot, namespace, pid, start_ticks = found.groups()
        here = _here()
        if (host, boot, namespace) == here and _start_ticks(int(pid)) == int(start_ticks):
            continue  # at work
        if host != here[0] or (boot == here[1] and namespace != here[2]):
            left.append(f"{name} (it is of another host or container, where its maker may be at work)")
            continue
        try:
            handle = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
        except FileNotFoundError:
            continue  # another one swept it
        except OSError as error:
            left.append(f"{name} ({os.strerror(error.errno or 0)})")
            continue
        try:
            why = why_not_owned(handle, _mark_of(name))
        finally:
            let_go(handle)
        if why:
            left.append(f"{name} ({why})")
            continue
        yield Temporary(name, dir_fd)


def note_left(directory: Path, left: Sequence[str]) -> None:
    """Name what was left, once for all of it."""
    if left:
        warnings.warn(f"left as they are in {directory}: {', '.join(left)}", stacklevel=2)


def _mark_of(name: str) -> str:
    return f"gpuscan works in {name} and removes it; if its process was killed, the next one does\n"


def _here() -> tuple[str, str, str]:
    """Return what tells this host, its boot and the PID namespace from others: 6 hexadecimal digits each."""
    host, boot, namespace = os.uname().nodename, "", ""
    # Not there is one thing; not to be read just now is another, and must not look like another host.
    with suppress(FileNotFoundError):
        host += Path("/etc/machine-id").read_text()
    with suppress(FileNotFoundError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    with suppress(FileNotFoundError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (names no file)
    return _short(host), _short(boot), _short(namespace)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks after boot (proc_pid_stat(5)); -1 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    fields = text.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])
