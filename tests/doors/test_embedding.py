"""What a user of the library writes runs as the documents have it, and passes mypy --strict and pyright."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parents[1] / "user_project"
DOCUMENTS = [ROOT / "README.md", ROOT / "docs/embedding.md"]


def example_of(document: Path) -> str:
    (example,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    return str(example)


def project(place: Path) -> list[str]:
    """Return the files of a project in ``place``: the sample one, and the examples of the documents."""
    files = [shutil.copy(file, place) for file in sorted(PROJECT.glob("*.py"))]
    for document in DOCUMENTS:
        file = place / f"example_of_{document.stem.lower()}.py"
        file.write_text(example_of(document))
        files.append(file)
    return [str(file) for file in files]


def _run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    # An editable install may be invisible to type checkers; the checkout is not.
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env=env)


def check(command: list[str], files: list[str], place: Path) -> None:
    done = _run([*command, *files], place)
    assert done.returncode == 0, done.stdout + done.stderr


def mypy() -> list[str]:
    cache = ROOT / ".mypy_cache/users"  # of earlier runs: without one this takes half a minute
    python = ["--python-executable", sys.executable]
    silent = [
        "--follow-imports",
        "silent",
    ]  # as for an installed package: the user's files are what is checked
    return [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "",
        "--cache-dir",
        str(cache),
        *python,
        *silent,
    ]


@pytest.mark.slow
def test_a_users_code_passes_mypy_strict(tmp_path: Path) -> None:
    check(mypy(), project(tmp_path), tmp_path)


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text('import gpuscan\ngpuscan.Policy(on_refused="maybe")\ngpuscan.Store("cxl")\n')
    done = _run([*mypy(), str(wrong)], tmp_path)
    assert done.returncode == 1
    assert len(re.findall(r"wrong.py:[23]: error", done.stdout)) == 2, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pyright") is None, reason="pyright downloads its engine; install it to run this"
)
def test_a_users_code_passes_pyright_strict(tmp_path: Path) -> None:
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["*.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    project(tmp_path)
    check(["pyright", "--pythonpath", sys.executable], [], tmp_path)


def test_the_example_of_the_page_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example_of(ROOT / "docs/embedding.md")],
        capture_output=True,
        text=True,
        check=True,
    )
    requested, migrated, pending = map(int, re.findall(r"(\d+) (?:requested|migrated|pending)", done.stdout))
    (dropped,) = map(int, re.findall(r"'refused: EBUSY after 2 attempts': (\d+)", done.stdout))
    assert requested == 20_000 == migrated + pending + dropped
    assert migrated > 10_000
    assert dropped > 1_000
