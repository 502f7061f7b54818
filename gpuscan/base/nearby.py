"""A file that a name may have meant: a built-in name has no suffix, and a path has a slash."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def meant_file(name: str, *suffixes: str) -> str:
    """Return what to add to a sentence about an unknown ``name``: the file here that it may mean, or nothing.

    Args:
        name: as given, without a slash.
        suffixes: that a file of the kind may have; an empty one is the name itself.
    """
    with suppress(OSError):  # longer than a file's name can be
        for suffix in suffixes:
            if name and Path(f"./{name}{suffix}").exists():
                return f" (did you mean './{name}{suffix}'?)"
    return ""
