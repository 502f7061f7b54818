"""Reference pages as Markdown: commands from their ``--help``, the public names from their docstrings."""

from __future__ import annotations

import enum
import inspect
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import gpuscan
from gpuscan.cli.main import COMMANDS, load_command, main

_ROLE = re.compile(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`")
_HEADING = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_ENTRY = re.compile(r"    (\S[^:]*): (.*)")
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")


def command_names() -> list[str]:
    """Return all commands, those within another after it; the first, without a word, is the program's own."""
    names = [""]
    for name in COMMANDS:
        names.append(name)
        names += [f"{name} {inner}" for inner in getattr(load_command(name), "commands", {})]
    return names


def command_page(name: str) -> str:
    """Return the page of one command of :func:`command_names`."""
    words = [] if name == gpuscan.__name__ else name.split()
    said = io.StringIO()
    with redirect_stdout(said):
        code = main([*words, "--help"])
    if code:
        raise RuntimeError(f"{name} --help ended with exit code {code}")
    return f"# {' '.join(['gpuscan', *words])}\n\n```text\n{said.getvalue().strip()}\n```\n"


def python_page() -> str:
    """Return the page of what ``import gpuscan`` has by name."""
    parts = [
        "# Python",
        "All names of `import gpuscan`. [embedding.md](../embedding.md) shows them at work.",
    ]
    for name in gpuscan.__all__:
        thing = getattr(gpuscan, name)
        if inspect.isclass(thing):
            parts += _of_class(name, thing)
        elif callable(thing):
            parts += [f"## {name}", _signature("def", name, thing), _prose(thing.__doc__)]
    return "\n\n".join(parts) + "\n"


def _of_class(name: str, thing: type) -> Iterator[str]:
    yield f"## {name}"
    if issubclass(thing, enum.Enum):
        yield _prose(thing.__doc__)
        yield "\n".join(f"- `{one.name}` = {one.value!r}" for one in thing)
        return
    makes = not getattr(thing, "_is_protocol", False) and not issubclass(thing, Exception)
    yield _signature("class", name, thing) if makes else f"```python\nclass {name}\n```"
    yield _prose(thing.__doc__)
    for member, value in _members(thing):
        yield f"### {name}.{member}"
        if isinstance(value, property):
            yield _signature("property", member, value.fget)
            yield _prose(value.__doc__)
        else:
            yield _signature("def", member, getattr(value, "__func__", value))
            yield _prose(inspect.getdoc(getattr(thing, member)))


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that are ours, with those of the bases."""
    seen = set()
    for owner in thing.__mro__:
        if owner.__module__.partition(".")[0] != gpuscan.__name__:
            continue
        for name, value in vars(owner).items():
            is_ours = callable(value) or isinstance(value, property | classmethod | staticmethod)
            if not name.startswith("_") and name not in seen and is_ours:
                seen.add(name)
                yield name, value


def _signature(kind: str, name: str, thing: Any) -> str:
    said = inspect.signature(thing)
    parameters = [one.replace(annotation=_plain(one.annotation)) for one in said.parameters.values()]
    parameters = [one for one in parameters if one.name not in ("self", "cls")]
    returns = said.return_annotation
    if kind == "class":
        returns = inspect.Signature.empty
    text = str(said.replace(parameters=parameters, return_annotation=_plain(returns))).replace("'", "")
    if len(text) > 80:  # a line for each parameter
        between = [f"    {_ADDRESS.sub('...', str(one))},".replace("'", "") for one in parameters]
        star = next((at for at, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
        if star is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
            between.insert(star, "    *,")
        text = "\n".join(["(", *between, ")" + text.rpartition(")")[2]])
    text = _ADDRESS.sub("...", text)
    if kind == "property":
        text = text.removeprefix("()")
    return f"```python\n{kind} {name}{text}\n```"


def _plain(annotation: Any) -> Any:
    """Return an annotation as it is written in the source, without a module where it is a class."""
    if annotation is inspect.Signature.empty or isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__name__", str(annotation))


def _prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: sections as lists, names of ours as links."""
    lines: list[str] = []
    in_section = has_entries = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        heading, entry = _HEADING.match(line), _ENTRY.match(line)
        if heading:
            in_section, has_entries = True, heading[1] not in ("Returns", "Yields")
            lines += ["", f"**{heading[1]}**", ""]
        elif in_section and has_entries and entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif in_section and line and not line.startswith(" "):
            in_section = False
            lines += ["", line]
        elif in_section:
            lines.append(("    " if has_entries and line.strip() else "") + line.strip())
        else:
            if line.startswith("- ") and lines and lines[-1] and not lines[-1].startswith(("- ", " ")):
                lines.append("")
            lines.append(line)
    return _ROLE.sub(_link, "\n".join(lines))


def _link(role: re.Match[str]) -> str:
    name = role[1]
    return f"[`{name}`](#{name.lower()})" if name in gpuscan.__all__ else f"`{name}`"
