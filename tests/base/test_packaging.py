"""The package list, the links, the public names and the README agree with the tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gpuscan

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_package_list_is_the_tree() -> None:
    setuptools = SETTINGS["tool"]["setuptools"]
    mapping = setuptools["package-dir"]
    found = {"gpuscan"}
    for name, top in {"gpuscan": "gpuscan", **mapping}.items():
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / top).parts]))
    assert sorted(setuptools["packages"]) == sorted(found)


@pytest.mark.parametrize("name", ["kernels", "cli"])
def test_the_links_are_there(name: str) -> None:
    link = ROOT / "gpuscan" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


@pytest.mark.parametrize("name", gpuscan.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(gpuscan, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stor'"):
        gpuscan.Stor  # noqa: B018 - the access is the test


def test_importing_gpuscan_imports_nothing_heavy() -> None:
    heavy = ("numpy", "numba", "pydantic", "rich")
    code = f"import sys, gpuscan; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_version_is_written_once_and_for_all() -> None:
    assert SETTINGS["project"]["version"] == gpuscan.__version__


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # the README's own words
    n_batches = len(re.findall(r"^\d+ \[", capsys.readouterr().out, re.MULTILINE))
    assert n_batches == -(-len(range(0, 100_000, 7)) // 512)


def test_the_two_commands_stand_at_the_top_of_the_readme() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any(line.startswith("$ make run") for line in top)
    assert any(line.startswith("$ make test") for line in top)
