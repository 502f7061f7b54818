"""Things of one kind, found by themselves: one file each in a folder, and what other packages add.

A built-in one called ``hot-list`` is the module ``hot_list`` of the folder; a package of others names its own
in an entry point of the kind's group. Names are known without importing any of them; one is imported when it
is asked for.
"""

from __future__ import annotations

import difflib
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Generic, TypeVar, cast

from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM

T = TypeVar("T")


class Catalogue(Generic[T]):
    """All things of a kind, by name.

    Args:
        kind: what one is called, such as ``design``; its group of entry points is ``gpuscan.designs``.
        folder: the package whose modules (or packages) are one each, such as ``gpuscan.designs.built_in``.
        contract: what each is an instance of.
        attribute: the name that a built-in module gives it.
        group: of entry points, where it is called otherwise.
    """

    def __init__(self, kind: str, folder: str, contract: type[T], attribute: str, *, group: str = "") -> None:
        self.kind = kind
        self.group = group or f"gpuscan.{kind.replace(' ', '_')}s"
        self._folder, self._contract, self._attribute = folder, contract, attribute
        self._loaded: dict[str, T] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names: the built-in ones by the alphabet, then those of other packages."""
        return (*self._modules, *self._entry_points)

    def __contains__(self, name: object) -> bool:
        return name in self._modules or name in self._entry_points

    def __iter__(self) -> Iterator[T]:
        """Go through all of them, which imports each.

        Raises:
            InputError: one of another package cannot be used.
        """
        return (self.get(name) for name in self.names)

    def get(self, name: str) -> T:
        """Return one.

        Raises:
            InputError: there is none of that name, or it is of another package and cannot be used.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def usable(self) -> tuple[dict[str, T], dict[str, InputError]]:
        """Return those that can be used, and why each of the others cannot, both by name.

        For who goes through all: what is broken is of another package, and whoever asks for it is told.
        """
        found: dict[str, T] = {}
        broken: dict[str, InputError] = {}
        for name in self.names:
            try:
                found[name] = self.get(name)
            except InputError as error:
                broken[name] = error
        return found, broken

    def require(self, name: str) -> None:
        """Check a name, without an import of what it names.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self:
            close = difflib.get_close_matches(name, self.names, 1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"unknown {self.kind} {name!r}{meant}; choose {', '.join(self.names)}")

    def origin(self, name: str) -> str:
        """Return the package that one is of, empty for a built-in one."""
        found = self._entry_points.get(name)
        return "" if found is None else _package(found)

    def _load(self, name: str) -> T:
        self.require(name)
        if name in self._modules:
            found = getattr(import_module(f"{self._folder}.{self._modules[name]}"), self._attribute)
            assert isinstance(found, self._contract), f"{self._folder}: {name} is no {self.kind}"
            return found
        entry = self._entry_points[name]
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:  # whatever another package does when it is imported
            raise InputError(
                f"the {self.kind} {name!r} of {_package(entry)} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
        if not isinstance(found, self._contract):
            raise InputError(
                f"the {self.kind} {name!r} of {_package(entry)} ({entry.value}) is of type "
                f"{type(found).__name__}, not {self._contract.__name__}; mend or uninstall that package"
            )
        return found

    @cached_property
    def _modules(self) -> dict[str, str]:
        folder = Path(str(import_module(self._folder).__file__)).parent
        modules = (module.name for module in pkgutil.iter_modules([str(folder)]))
        return {name.replace("_", "-"): name for name in sorted(modules) if not name.startswith("_")}

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        entries = installed(tuple(sys.path)).select(group=self.group)
        for entry in sorted(entries, key=lambda entry: (entry.name, _package(entry))):
            others = PROGRAM if entry.name in self._modules else ""
            if entry.name in found and found[entry.name].value != entry.value:
                others = _package(found[entry.name])
            if others:
                raise InputError(
                    f"{_package(entry)} has a {self.kind} {entry.name!r}, and so has {others}; "
                    "uninstall one of them"
                )
            found[entry.name] = entry
        return found


@cache
def installed(path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of all packages on ``sys.path``, looked up once for all catalogues: 10 ms."""
    return cast("EntryPoints", entry_points())  # Python 3.11 has another class, with the same select()


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
