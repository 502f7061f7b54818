"""Where compiled code may be kept and found again: in directories that nobody else can write to.

Numba unpickles what it finds in its cache (``IndexDataCacheFile``), so whoever can put a file there runs
code as us: root with another user's HOME (``sudo -E``), a checkout of somebody else's, a NUMBA_CACHE_DIR
below /tmp. A directory is used where it is ours, nobody else may write it, and nobody else can put another
one in its place: all above it belong to us or root, and where others may write one, it is sticky. What holds
once then holds for good, since only we and root could change it. Root's own is /var/cache/gpuscan.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator

ROOT_CACHE = Path("/var/cache/gpuscan")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_COMPILED = (".nbi", ".nbc")
_SAID: list[str] = []
"""Why there is no cache, once that was said."""


def why_not_ours(directory: Path) -> str:
    """Return why others could put something into a directory, empty if they cannot.

    Args:
        directory: one that is there; without symbolic links (``os.path.realpath``).

    Raises:
        OSError: it, or one above it, cannot be looked at.
    """
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return f"{directory} is not a directory"
    if facts.st_uid != os.geteuid():
        return f"{directory} belongs to user {facts.st_uid}"
    if facts.st_mode & _OTHERS_WRITE:
        return f"others may write to {directory} (mode {stat.S_IMODE(facts.st_mode):o})"
    return _why_replaceable(directory)


def _why_replaceable(path: Path) -> str:
    """Return why others could put something else in the place of what is ours, empty if they cannot."""
    for above in path.parents:
        facts = above.lstat()
        if facts.st_uid not in (0, os.geteuid()):
            return f"{above} belongs to user {facts.st_uid}"
        if facts.st_mode & _OTHERS_WRITE and not facts.st_mode & stat.S_ISVTX:
            return f"others may write to {above} (mode {stat.S_IMODE(facts.st_mode):o})"
    return ""


def _why_code_is_not_ours(directory: Path) -> str:
    """Return what is wrong with the compiled code in a directory: others may have written there before."""
    is_closed = not directory.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.endswith(_COMPILED):
                continue
            facts = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(facts.st_mode):
                return f"{entry.path} is not a file"
            if facts.st_uid != os.geteuid():
                return f"{entry.path} belongs to user {facts.st_uid}"
            if facts.st_mode & _OTHERS_WRITE and not is_closed:
                return f"others may write to {entry.path}"
    return ""


def _made(path: Path) -> Path:
    """Return the real path of a directory; it is made where it is not there and nobody could swap it.

    Raises:
        OSError: it cannot be made or looked at, or is not ours.
    """
    real = Path(os.path.realpath(path))
    for place in reversed((real, *real.parents)):
        if not os.path.lexists(place):
            why = _why_replaceable(place)
            if why:  # nothing is left in places of others
                raise PermissionError(why)
            place.mkdir(mode=0o700, exist_ok=True)
    why = why_not_ours(real) or _why_code_is_not_ours(real)
    if why:
        raise PermissionError(why)
    if not os.access(real, os.W_OK | os.X_OK):
        raise PermissionError(f"{real} cannot be written")
    return real


@cache
def cache_place(source_folder: Path, asked: str) -> tuple[Path | None, str]:
    """Return where the compiled code of a folder's modules is kept, or None and why.

    Args:
        source_folder: of the modules.
        asked: what NUMBA_CACHE_DIR says, empty where it says nothing.
    """
    whys: list[str] = []
    for place in _candidates(source_folder, asked):
        try:
            return _made(place), ""
        except OSError as error:
            whys.append(f"{place}: {error.strerror}" if error.errno else str(error))
    return None, "; ".join(whys)


def _candidates(source_folder: Path, asked: str) -> Iterator[Path]:
    # As Numba names them, so that what it has compiled there is found.
    name = InTreeCacheLocator.get_suitable_cache_subpath(str(source_folder / "_"))
    if asked:
        yield Path(asked, name).absolute()
        return
    yield source_folder / "__pycache__"
    if os.geteuid() == 0:
        yield ROOT_CACHE / name
    else:
        cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        yield Path(cache_home).expanduser().absolute() / "numba" / name


class _OwnedLocator(InTreeCacheLocator):  # type: ignore[misc]  # Numba has no types
    """Finds the place of a function's compiled code."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """Return a locator, None where there is no place."""
        place, _ = cache_place(Path(py_file).parent.absolute(), config.CACHE_DIR)
        if place is None:
            return None
        found = cls(py_func, py_file)
        found._cache_path = str(place)
        return found


class _OwnedImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_OwnedLocator,)


class _OwnedCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _OwnedImpl


def cached_njit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function at its first call, with a cache where there is a place for one.

    Args:
        function: at module level.
        options: of ``numba.njit``.
    """
    dispatcher = njit(**options)(function)
    try:
        found = _OwnedCache(function)
    except RuntimeError as error:  # numba.core.caching: "cannot cache function ...: no locator available"
        if "cannot cache" not in str(error):
            raise
        folder = Path(function.__code__.co_filename).parent.absolute()
        _warn_uncached(cache_place(folder, config.CACHE_DIR)[1])
        return dispatcher
    if isinstance(found._impl.locator, _OwnedLocator):
        dispatcher._cache = found
    else:  # the variable goes before the classes of a cache
        _warn_uncached("NUMBA_CACHE_LOCATOR_CLASSES is set, and where those look is not checked")
    return dispatcher


def _warn_uncached(why: str) -> None:
    if _SAID:
        return
    _SAID.append(why)
    warnings.warn(
        "kernels are compiled in every process (seconds each), for want of a cache directory that nobody "
        f"else can write to ({why}); set NUMBA_CACHE_DIR to one",
        RuntimeWarning,
        stacklevel=5,
    )
