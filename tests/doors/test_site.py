"""The documentation site: strict, without requests to anybody, laid out as on GitHub."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import gpuscan
from gpuscan.cli.main import COMMANDS
from optional import browser_or_skip, opened, package_or_skip

ROOT = Path(__file__).parents[2]
ELEMENTS = ("h1", "h2", "h3", "h4", "li", "tr", "td", "pre", "img", "strong")
OUTSIDE = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href|srcset)=["']?(?:[a-z]+:)?//[^"'> ]*"""
    r"""|url\(["']?(?:[a-z]+:)?//[^)]*|@import\s[^;]*//[^;]*"""
)
"""What a browser would fetch of another host without being asked."""

pytestmark = pytest.mark.slow


def built(root: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout into ``place`` as make docs does; about 4 s of one core."""
    (recipe,) = re.findall(r"^\t(.+) \$\(BIN\)/python (-m mkdocs .+)$", (ROOT / "Makefile").read_text(), re.M)
    command = [sys.executable, *recipe[1].split(), "--site-dir", str(place)]
    env = {**os.environ, **dict([recipe[0].split("=")])}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package_or_skip("material", "docs")
    place = tmp_path_factory.mktemp("docs") / "site"
    done = built(ROOT, place)
    assert done.returncode == 0, done.stderr
    return place


def test_a_dead_link_a_dead_anchor_and_a_lost_page_end_the_build(tmp_path: Path) -> None:
    package_or_skip("material", "docs")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for path in (ROOT / "mkdocs.yml", *ROOT.glob("*.md"), ROOT / "benchmarks"):
        (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs/files.md").open("a") as page:
        page.write("\n[a](nowhere.md) [b](../NOWHERE.md) [c](traces.md#nowhere)\n")
    (tmp_path / "docs/lost.md").write_text("# Lost\n")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for said in ("'nowhere.md'", "'project/NOWHERE.md'", "'#nowhere'", "- lost.md"):
        assert said in done.stderr


def article(page: Path) -> str:
    found = re.search(r"<article.*</article>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, page
    return found[0]


def test_nothing_is_requested_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 40
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert OUTSIDE.findall(text) == [], path
        if path.suffix == ".html":
            assert "default-src 'self'" in text, path


def test_pages_are_laid_out_as_on_github(site: Path) -> None:
    """A list without a blank line before it is one there and none here, so its items are counted."""
    github = MarkdownIt("commonmark").enable("table")
    pages = sorted(path for path in (ROOT / "docs").rglob("*.md"))
    assert len(pages) > 25
    tags = re.compile(rf"<({'|'.join(ELEMENTS)})\b")
    for page in pages:
        there = Counter(tags.findall(github.render(page.read_text(encoding="utf-8"))))
        here = article(site / page.relative_to(ROOT / "docs").with_suffix(".html"))
        assert Counter(tags.findall(here)) == there, page


def test_every_command_and_public_name_has_its_reference(site: Path) -> None:
    commands = site / "reference/commands"
    for name in COMMANDS:
        assert f"Usage: gpuscan {name}" in article(commands / f"{name}.html")
    assert "--density" in article(commands / "bench-scan.html")
    names = article(site / "reference/python.html")
    for name in gpuscan.__all__:
        if name != "__version__":
            assert f'<h2 id="{name.lower()}">' in names
    assert 'id="storerequest"' in names
    assert ":class:" not in names
    assert " at 0x" not in names


def test_a_browser_loads_it_with_its_search_and_complains_of_nothing(site: Path, tmp_path: Path) -> None:
    browser = browser_or_skip()
    asked: list[str] = []

    class Served(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            asked.append(f"{self.path} {int(code)}")

    handler = functools.partial(Served, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/index.html?q=superseded"
        _, console = opened(browser, page, tmp_path)
        server.shutdown()
    assert console == []
    assert {line.rpartition(" ")[2] for line in asked} == {"200"}, asked
    assert "/search/search_index.json 200" in asked
    assert "/answers/density.png 200" in asked
