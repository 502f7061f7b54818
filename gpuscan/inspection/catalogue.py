"""All kinds of files: those in ``built_in``, and others' by the entry points ``gpuscan.file_kinds``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import GpuscanError, InputError
from gpuscan.files.reading import UnfitError
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.topology import Topology

FILE_KINDS = Catalogue("file kind", "gpuscan.inspection.built_in", FileKind, "FILE_KIND")


def inspect(
    path: Path,
    machine: Topology | None = None,
    on_read: Callable[[int], None] | None = None,
    given: Mapping[str, str] | None = None,
) -> tuple[str, Findings]:
    """Return of which kind a file is, by name, and what is in it.

    Args:
        path: of the file or directory.
        machine: whose memory it is about, where the file does not say.
        on_read: called with the bytes read since the last call.
        given: what the user says of it because it does not, by key.

    Raises:
        InputError: it is not there, no kind knows it, or it is damaged.
    """
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r} is not a file name ({error}); give a file") from error
    if not exists:
        raise InputError(f"{path} is not there; give a file or directory")
    kinds, unusable = FILE_KINDS.usable()
    for name, kind in sorted(kinds.items(), key=lambda item: item[1].order):
        if _is_one(kind, path):
            if kind.look_with is not None:
                return name, kind.look_with(path, machine, on_read or _ignore, given or {})
            if given:
                raise InputError(f"{path} is {kind.about}, which says all that there is; leave out --given")
            return name, kind.look(path, machine, on_read or _ignore)
    if unusable:
        raise next(iter(unusable.values()))
    abouts = ", ".join(kind.about for kind in sorted(kinds.values(), key=lambda kind: kind.order))
    raise InputError(f"{path} is nothing that gpuscan reads; it knows {abouts}")


def _is_one(kind: FileKind, path: Path) -> bool:
    try:
        return kind.is_one(path)
    except (OSError, GpuscanError, UnfitError):
        return False


def _ignore(n_bytes: int) -> None:
    """Nobody watches."""
