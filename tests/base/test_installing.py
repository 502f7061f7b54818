"""What to type where a package is missing works from where the user is, and is made in one place."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpuscan
from gpuscan.base.installing import install_command
from gpuscan.cli.main import main

ROOT = Path(__file__).parents[2]
METADATA = """Metadata-Version: 2.4
Name: gpuscan
Version: 0
Requires-Dist: zarr>=3.0.8
Requires-Dist: distributed>=2024.8; extra == "cluster"
Requires-Dist: polars>=1.20; extra == "bench"
Requires-Dist: polars-extra>=1; extra == "bench"
Requires-Dist: duckdb>=1.1; extra == 'bench'
"""


def said(place: Path, code: str, cwd: Path | None = None) -> str:
    """Return what ``code`` prints with the gpuscan in ``place``."""
    # Without the site-packages of the tests, where a gpuscan is installed too.
    code = f"import sys; sys.path.insert(0, {str(place)!r})\nfrom gpuscan.base.installing import *\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd=cwd or place
    )
    return done.stdout.strip().partition("pip install ")[2]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that gpuscan was installed into, as far as it matters here."""
    site = tmp_path / "site"
    (site / "gpuscan/base").mkdir(parents=True)
    for name in ("__init__.py", "base/__init__.py", "base/installing.py"):
        shutil.copy(ROOT / "gpuscan" / name, site / "gpuscan" / name)
    (site / "gpuscan-0.dist-info").mkdir()
    (site / "gpuscan-0.dist-info" / "METADATA").write_text(METADATA)
    return site


def came_from(site: Path, origin: object) -> None:
    (site / "gpuscan-0.dist-info" / "direct_url.json").write_text(json.dumps(origin))


CLUSTER, POLARS = "print(install_command('cluster'))", "print(install_command('bench', 'polars'))"


def test_in_a_checkout_the_checkout_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("cluster", "distributed").endswith("pip install -e '.[cluster]'")
    assert install_command(package="zarr").endswith("pip install -e .")
    monkeypatch.chdir(tmp_path)
    assert install_command("bench").endswith(f"pip install -e {shlex.quote(f'{ROOT}[bench]')}")


def test_of_an_install_from_a_tree_the_tree_is_named(site: Path, tmp_path: Path) -> None:
    tree = tmp_path / "my tree"
    tree.mkdir()
    (tree / "pyproject.toml").touch()
    came_from(site, {"url": tree.as_uri(), "dir_info": {}})
    assert said(site, CLUSTER) == f"'{tree}[cluster]'"
    assert said(site, CLUSTER, cwd=tree) == "'.[cluster]'"
    shutil.rmtree(tree)
    assert said(site, CLUSTER) == "'distributed>=2024.8'"


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param({}, id="unknown"),
        pytest.param({"url": "https://host/gpuscan-0.whl", "archive_info": {}}, id="wheel"),
        pytest.param({"url": "https://host/gpuscan.git", "vcs_info": {"vcs": "git"}}, id="repository"),
    ],
)
def test_installed_from_elsewhere_packages_are_named_with_their_versions(site: Path, origin: object) -> None:
    if origin:
        came_from(site, origin)
    assert said(site, CLUSTER) == "'distributed>=2024.8'"
    assert said(site, POLARS) == "'polars>=1.20'"
    assert said(site, "print(install_command('bench'))") == "'polars>=1.20' 'polars-extra>=1' 'duckdb>=1.1'"
    assert said(site, "print(install_command(package='zarr'))") == "'zarr>=3.0.8'"
    assert said(site, "print(install_command('bench', 'pytz'))") == "pytz"


def test_without_metadata_the_package_is_named(site: Path) -> None:
    shutil.rmtree(site / "gpuscan-0.dist-info")
    assert said(site, POLARS) == "polars"


def test_pip_is_that_of_this_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "pip"
    other.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_command("live").startswith(f"{shlex.quote(sys.executable)} -m pip install ")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert install_command("live").startswith("pip install ")


def texts(file: Path) -> list[str]:
    """Return all strings of a module but its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


MODULES = [
    file
    for top in ("gpuscan", "kernels", "cli", "benchmarks", "tests")
    for file in sorted((ROOT / top).rglob("*.py"))
    if file.resolve() not in (Path(__file__), ROOT / "gpuscan/base/installing.py")
]


def test_nobody_else_says_what_to_install() -> None:
    assert len(MODULES) > 200
    own_words = [
        (str(file), text)
        for file in MODULES
        if not file.name.startswith("test_")
        for text in texts(file)
        if "pip install" in text or re.search(r"gpuscan\[", text)
    ]
    assert own_words == []


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda f: f.name
)
def test_no_page_installs_gpuscan_from_an_index(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"pip install [^\n`]*gpuscan", text)
    assert not re.search(r"\bgpuscan\[", text)


def test_doctor_names_extras_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gpuscan.cli.doctor._version", lambda package: "")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for extra, package in (("cluster", "distributed"), ("bench", "polars"), ("live", "prometheus-client")):
        assert install_command(extra, package) in out
        assert f"[{extra}]'" in out
    assert install_command(package="zarr") in out
    assert gpuscan.__version__ in out
