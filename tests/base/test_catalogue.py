"""Catalogues: what is in a folder, what other packages add, and what is imported for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuscan.base.catalogue import Catalogue, installed
from gpuscan.base.errors import InputError

Lay = Callable[[dict[str, str]], None]


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lay]:
    """Write files where Python finds packages, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write({"shapes/__init__.py": "", "shapes/blue_square.py": "SHAPE = 'square'", "shapes/_helper.py": ""})
    write({"shapes/circle/__init__.py": "SHAPE = 'circle'"})
    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def package(name: str, *entries: str, text: str = "") -> dict[str, str]:
    """Return the files of an installed package with entry points."""
    return {
        f"{name}.py": text,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/entry_points.txt": "[gpuscan.round_shapes]\n" + "\n".join(entries),
    }


def shapes() -> Catalogue[str]:
    installed.cache_clear()  # of a directory that was on the path before
    return Catalogue("round shape", "shapes", str, "SHAPE")


def test_names_are_known_before_anything_is_imported(lay: Lay) -> None:
    lay(package("others", "oval = others:OVAL", text="OVAL = 'oval'"))
    found = shapes()
    assert found.names == ("blue-square", "circle", "oval")
    assert "oval" in found
    assert "_helper" not in found
    assert not {"shapes.blue_square", "shapes.circle", "others"} & set(sys.modules)
    assert found.get("circle") == "circle"
    assert "shapes.blue_square" not in sys.modules
    assert list(found) == ["square", "circle", "oval"]
    assert (found.origin("oval"), found.origin("circle")) == ("others 1.0", "")


def test_an_unknown_name_says_which_there_are(lay: Lay) -> None:
    with pytest.raises(
        InputError,
        match=r"unknown round shape 'cirle' \(did you mean 'circle'\?\); choose blue-square, circle",
    ):
        shapes().require("cirle")
    with pytest.raises(InputError, match="unknown round shape 'x'; choose"):
        shapes().get("x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(0)", r"of others 1.0 cannot be loaded \(SystemExit: 0\)"),
        ("1 / 0", r"of others 1.0 cannot be loaded \(ZeroDivisionError: division by zero\)"),
        ("", r"of others 1.0 cannot be loaded \(AttributeError: .*'OVAL'"),
        ("OVAL = 3", r"of others 1.0 \(others:OVAL\) is of type int, not str"),
    ],
)
def test_one_of_others_that_is_broken_harms_nobody_else(lay: Lay, text: str, said: str) -> None:
    lay(package("others", "oval = others:OVAL", text=text))
    found = shapes()
    assert found.get("circle") == "circle"
    usable, broken = found.usable()
    assert (list(usable), list(broken)) == (["blue-square", "circle"], ["oval"])
    with pytest.raises(InputError, match=f"the round shape 'oval' {said}.*; mend or uninstall that package"):
        found.get("oval")


def test_one_name_is_one_thing(lay: Lay) -> None:
    lay(package("others", "circle = others:OVAL", text="OVAL = 'oval'"))
    with pytest.raises(
        InputError, match=r"others 1.0 has a round shape 'circle', and so has gpuscan; uninstall"
    ):
        _ = shapes().names
    lay(package("others", "oval = others:OVAL"))
    lay(package("again", "oval = again:OVAL"))
    with pytest.raises(InputError, match=r"others 1.0 has a round shape 'oval', and so has again 1.0"):
        _ = shapes().names
