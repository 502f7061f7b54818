"""docs/tutorials/ and docs/notebooks/: what they tell a reader to do is done, block by block."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hosts import small_host
from optional import package_or_skip

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
NOTEBOOK = ROOT / "docs/notebooks/explore.ipynb"
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

DRIVER = """
import contextlib, io, json, sys
from gpuscan.cli.main import main
said = []
for kind, what in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if kind == "python":
            exec(what, {"__name__": "__main__"})
        elif code := main(what):
            sys.exit(f"{what} ended with exit code {code}")
    said.append(out.getvalue())
json.dump(said, sys.stdout)
"""
"""Does steps one after the other: Numba and all are imported once."""

pytestmark = pytest.mark.slow


class Block(NamedTuple):
    """A fenced block; one that is not run says why above it."""

    language: str
    text: str
    is_run: bool

    @property
    def file_name(self) -> str | None:
        """Return the file that its first line says it is a part of."""
        named = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return named[1] if named else None


def blocks_of(tutorial: Path) -> list[Block]:
    return [
        Block(language, text, is_run=not why)
        for why, language, text in BLOCK.findall(tutorial.read_text(encoding="utf-8"))
    ]


def ran(steps: list[tuple[str, Any]], place: Path) -> list[str]:
    """Do steps as a reader would, in ``place``, and return what each said."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    packages = f"{place}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": packages}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(steps),
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


def lay_down(place: Path) -> None:
    """Leave what pip leaves of the package in ``place``."""
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    kept = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(kept, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("".join(groups), encoding="utf-8")


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_does_what_it_says(tutorial: Path, tmp_path: Path) -> None:
    """A block of text after a command is lines of its output, blanks aside."""
    blocks = blocks_of(tutorial)
    assert tutorial.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks)
    text = "".join(block.text for block in blocks if block.is_run)
    if "sudo " in text and os.geteuid() != 0:
        pytest.skip("page frame numbers are root's to see")
    if "host.zarr" in text:
        small_host().write(tmp_path / "host.zarr")
    steps: list[tuple[str, Any]] = []
    shown: dict[int, str] = {}  # by step
    for block in blocks:
        if not block.is_run:
            continue
        if block.file_name is not None:
            with (tmp_path / block.file_name).open("a", encoding="utf-8") as file:
                file.write(block.text)
            if block.file_name == "pyproject.toml":
                lay_down(tmp_path)
        elif block.language == "python":
            steps.append(("python", block.text))
        elif block.language == "console":
            for line in block.text.splitlines():
                prompt, *command = shlex.split(line.replace("sudo ", "", 1))
                assert (prompt, command[0]) == ("$", "gpuscan"), line
                steps.append(("command", command[1:]))
        else:
            assert block.language == "text"
            shown[len(steps) - 1] = block.text
    assert any(kind == "command" for kind, _ in steps)
    said = ran(steps, tmp_path)
    for step, text in shown.items():
        found = [line.split() for line in said[step].splitlines()]
        for line in text.splitlines():
            assert line.split() in found, said[step]


def test_the_notebook_runs_and_is_kept_without_outputs(tmp_path: Path) -> None:
    package_or_skip("nbclient", "docs")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    resources = {"metadata": {"path": str(tmp_path)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert sum("image/png" in str(cell.outputs) for cell in code) == 2
