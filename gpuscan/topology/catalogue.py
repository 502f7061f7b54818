"""All machine sources: those in ``built_in``, and others' by the entry points ``gpuscan.machines``."""

from __future__ import annotations

import os
from pathlib import Path

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, open_file
from gpuscan.topology.contract import START_BYTES, Host, MachineSource

MACHINES = Catalogue(
    "machine source",
    "gpuscan.topology.built_in",
    MachineSource,
    "MACHINE_SOURCE",
    group="gpuscan.machines",
)

_SNAPSHOT_FILE = "zarr.json"


def read_machine_file(path: Path) -> Host:
    """Return the machine that a file or directory says.

    Raises:
        InputError: no source knows it, several do, or it is broken.
    """
    found = knowing(path)
    if len(found) > 1:
        whose = ", ".join(f"{name} ({MACHINES.origin(name) or 'gpuscan'})" for name in found)
        raise InputError(f"{path} looks like a machine of several sources: {whose}; uninstall all but one")
    if found:
        return MACHINES.get(found[0]).read(path)
    if (path / _SNAPSHOT_FILE).exists():
        raise InputError(f"{path} is a captured machine; give it to --machine of run, or to scan")
    unusable = MACHINES.usable()[1]
    if unusable:
        raise next(iter(unusable.values()))
    raise InputError(f"{path} is no machine that can be read; {remedy()}")


def knowing(path: Path) -> list[str]:
    """Return the sources that take a file or directory for theirs, by name.

    Raises:
        InputError: it cannot be looked at.
    """
    start = _start(path)
    return [name for name, source in MACHINES.usable()[0].items() if source.knows(path, start)]


def is_known_directory(path: Path) -> bool:
    """Whether a path is a directory that says what a machine has."""
    return path.is_dir() and any(source.knows(path, b"") for source in MACHINES.usable()[0].values())


def remedy() -> str:
    """Say what a machine may be."""
    about = [source.about for source in MACHINES.usable()[0].values()]
    return f"give {', '.join(about[:-1])} or {about[-1]}"


def _start(path: Path) -> bytes:
    """Return how a file begins; nothing of a directory."""
    try:
        if path.is_dir():
            return b""
        with os.fdopen(open_file(path), "rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name a preset, or a file or directory that can"
        ) from error
    except ValueError as error:  # a NUL byte in the name, or no file
        said = error if isinstance(error, UnfitError) else f"is no file name ({error})"
        raise InputError(f"{str(path)!r} {said}; {remedy()}") from None
