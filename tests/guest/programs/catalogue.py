"""The programs by the names of their files; one is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from .contract import RealProgram

_FOLDER = Path(__file__).parent / "built_in"
NAMES = tuple(sorted(file.stem.replace("_", "-") for file in _FOLDER.glob("[a-z]*.py")))


def load(name: str) -> type[RealProgram]:
    """Return a program's class: ``Program`` of its module."""
    module = import_module(f".built_in.{name.replace('-', '_')}", __package__)
    return cast(type[RealProgram], module.Program)
