"""What the site has beside the files of docs/: generated pages, and files that documents link to.

MkDocs calls the functions by their names. Links of the documents are those that GitHub follows: they are
relative to the file's place in the repository, and those that leave docs/ are turned here.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import reference

ROOT = Path(__file__).parents[2]
PROJECT = "project/"
"""Where files of the repository outside docs/ are on the site."""
_OUTSIDE_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_COMMANDS = "reference/commands/"
_LINK = re.compile(r"(\[[^\]]*\])\(([^()#\s:]+)(#[^()\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of commands into the navigation."""
    pages = [{name: uri} for uri, name in _command_pages().items()]
    for section in config.nav or []:
        for entry in section.get("Reference", []) if isinstance(section, dict) else []:
            if entry.get("Commands") == _COMMANDS:
                entry["Commands"] = pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files outside docs/ that a page links to."""
    for uri, name in _command_pages().items():
        files.append(File.generated(config, uri, content=reference.command_page(name)))
    files.append(File.generated(config, "reference/python.md", content=reference.python_page()))
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in _OUTSIDE_PAGES}
    origins = [*texts]
    for file in files.documentation_pages():
        if file.abs_src_path is not None:
            texts["docs/" + file.src_uri] = Path(file.abs_src_path).read_text(encoding="utf-8")
    for origin, text in texts.items():
        origins += [to for to in _linked(origin, text) if not to.startswith("docs/")]
    for origin in dict.fromkeys(origins):
        if (ROOT / origin).is_file():
            files.append(File.generated(config, PROJECT + origin, abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that enter or leave docs/; a folder has no page, and stays a name."""
    uri = page.file.src_uri
    outside = uri.startswith(PROJECT)
    origin = uri.removeprefix(PROJECT) if outside else f"docs/{uri}"

    def turned(link: re.Match[str]) -> str:
        to = _target(origin, link[2])
        if not outside and to.startswith("docs/"):
            return link[0]
        if (ROOT / to).is_dir():
            return link[1][1:-1]
        there = to.removeprefix("docs/") if to.startswith("docs/") else PROJECT + to
        return f"{link[1]}({posixpath.relpath(there, posixpath.dirname(uri))}{link[3] or ''})"

    return _LINK.sub(turned, markdown)


def _linked(origin: str, text: str) -> Iterator[str]:
    for link in _LINK.finditer(text):
        yield _target(origin, link[2])


def _target(origin: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _command_pages() -> dict[str, Any]:
    names = reference.command_names()
    return {f"{_COMMANDS}{name.replace(' ', '-') or 'gpuscan'}.md": name or "gpuscan" for name in names}
