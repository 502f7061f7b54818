"""What to type where a package is missing: nothing called gpuscan is on the package index.

So an extra is named by where this gpuscan comes from: the source tree that it runs from or was installed
from, as long as that is there; else the packages of the extra are named themselves.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

_NAME = "gpuscan"
_PROJECT = "pyproject.toml"


def install_command(extra: str = "", package: str = "") -> str:
    """Return the command that installs what is missing, to be typed where the user is now.

    Args:
        extra: of pyproject.toml that brings it; empty: gpuscan's own requirements.
        package: the one that is missing; where there is no source tree, it alone is named.
    """
    tree, editable = _source_tree()
    if tree is not None:
        place = "." if Path().samefile(tree) else str(tree)
        what = f"{place}[{extra}]" if extra else place
        return " ".join([_pip(), *(["-e"] if editable else []), _quoted(what)])
    return " ".join([_pip(), *map(_quoted, _requirements(extra, package))])


def _source_tree() -> tuple[Path | None, bool]:
    """Return the source tree of this gpuscan, None without one, and whether code is read from there."""
    tree = Path(__file__).resolve().parents[2]
    if (tree / _PROJECT).is_file():
        return tree, True
    try:
        origin = json.loads(metadata.distribution(_NAME).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None, False
    url = urlsplit(origin.get("url", ""))  # of an archive or a repository: it may be gone, or need rights
    tree = Path(unquote(url.path))
    if "dir_info" in origin and url.scheme == "file" and (tree / _PROJECT).is_file():
        return tree, False
    return None, False


def _requirements(extra: str, package: str) -> list[str]:
    """Return what an extra asks for, versions included, as the installed metadata has it (Requires-Dist)."""
    try:
        listed = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:
        return [package or extra]
    found = []
    for line in listed:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        of_extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        if (of_extra[1] if of_extra else "") == extra:
            found.append(requirement)
    if package:
        found = [line for line in found if re.match(rf"{re.escape(package)}(?![\w.-])", line)]
    return found or [package or extra]


def _pip() -> str:
    """Return the start of a pip command for the interpreter that runs: the shell's pip may be another's."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip install"
    return f"{shlex.quote(sys.executable)} -m pip install"


def _quoted(text: str) -> str:
    """Return ``text`` for a shell, in quotes where it is more than a plain word."""
    return text if re.fullmatch(r"[\w./-]+", text) else shlex.quote(text)
