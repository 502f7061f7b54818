"""Packages of others, laid down where Python finds them, and catalogues that see them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuscan.base.catalogue import Catalogue


@contextmanager
def installed(
    place: Path, name: str, code: str, groups: Mapping[str, str], *catalogues: Any
) -> Iterator[None]:
    """Install a package of one module while the block runs.

    Args:
        place: an empty folder.
        name: of the package and its module.
        code: of the module.
        groups: by group of entry points its line, such as ``{"gpuscan.designs": "mine = package:DESIGN"}``.
        catalogues: that shall look again.
    """
    (place / f"{name}.py").write_text(code, encoding="utf-8")
    about = place / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    listed = "".join(f"[{group}]\n{line}\n" for group, line in groups.items())
    (about / "entry_points.txt").write_text(listed, encoding="utf-8")
    sys.path.insert(0, str(place))
    _forget(catalogues)
    try:
        yield
    finally:
        sys.path.remove(str(place))
        sys.modules.pop(name, None)
        _forget(catalogues)


def _forget(catalogues: tuple[Catalogue[Any], ...]) -> None:
    importlib.invalidate_caches()
    for catalogue in catalogues:
        catalogue.__dict__.pop("_entry_points", None)
        catalogue._loaded.clear()
