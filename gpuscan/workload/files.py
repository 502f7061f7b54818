"""Workloads by name or from a TOML file, with ``key=value`` overrides; what is wrong is said in one sentence.

``gpuscan/workload/built_in/cxl-promote.toml`` is the annotated example (``gpuscan workloads cxl-promote``
prints it), docs/workload.md and :mod:`gpuscan.workload.model` list every key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gpuscan.base import arguments as checks
from gpuscan.base.complaints import first_complaint, suggestion
from gpuscan.base.errors import InputError
from gpuscan.base.nearby import meant_file
from gpuscan.files.reading import parse_toml
from gpuscan.files.toml_text import parse_toml_text, read_toml_text
from gpuscan.producers.catalogue import PRODUCERS
from gpuscan.topology.resolve import names_file
from gpuscan.workload import DEFAULT_WORKLOAD
from gpuscan.workload.model import MODELS, Workload
from gpuscan.workload.producer_model import Producer, table_names

__all__ = ["DEFAULT_WORKLOAD", "Workload", "builtin_text", "builtin_workloads", "load_workload"]

_REMEDY = "give a built-in name or a TOML file"

_FILES = (("topology.machine", names_file), ("source.trace", bool), ("source.given.pages", bool))
"""Keys whose value is a path, if it is one: in a workload file it is relative to that file."""


def builtin_workloads() -> list[tuple[str, str]]:
    """Return name and line of every built-in workload, the default first, then by name."""
    names = sorted(_builtin_names(), key=lambda name: (name != DEFAULT_WORKLOAD, name))
    return [(name, tomllib.loads(builtin_text(name))["shows"]) for name in names]


def load_workload(name_or_path: str, overrides: Sequence[str] = ()) -> Workload:
    """Return a built-in workload, or one from a TOML file.

    Args:
        name_or_path: a name of :func:`builtin_workloads`, or a path (anything with a
            slash or the suffix ``.toml``); paths in the file are relative to it.
        overrides: ``key=value`` with dotted keys, paths relative to the working directory, list items by
            position (``processes.0.memory=30%``); values as in TOML, strings without quotes too.

    Raises:
        InputError: no such workload or file, a TOML error, an unknown key, a value that does not fit.
    """
    return workload_of(*workload_document(name_or_path, overrides))


def workload_document(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Return what :func:`load_workload` makes a workload of, not checked yet.

    Returns:
        What to call the place in a complaint, and the keys with the overrides applied.

    Raises:
        InputError: no such workload or file, a TOML error, an override that does not fit.
    """
    checks.text("load_workload: name_or_path", name_or_path)
    checks.items("load_workload: overrides", overrides, str, "give key=value strings in a list")
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        where, name = name_or_path, _text(path.stem)
        document = with_paths(
            parse_toml_text(where, read_toml_text(path, "workload", _REMEDY)),
            lambda named: path.parent / named,
        )
    else:
        where, name = f"workload {name_or_path}", name_or_path
        document = parse_toml_text(where, builtin_text(name, meant_file(name, "", ".toml", ".zarr")))
    for override in overrides:
        _apply_override(document, override)
    document.setdefault("name", name)
    return where, document


def with_paths(document: dict[str, Any], locate: Callable[[str], Path]) -> dict[str, Any]:
    """Return the keys of a workload with ``locate`` of every path among them.

    What is no table or no string, as in a document that is not checked yet, stays as it is.
    """
    found = dict(document)
    for key, names_a_file in _FILES:
        *tables, name = key.split(".")
        at = found
        for table in tables:
            if not isinstance(at.get(table), dict):
                break
            at[table] = dict(at[table])
            at = at[table]
        else:
            value = at.get(name)
            if isinstance(value, str) and names_a_file(value):
                at[name] = str(locate(value))
    return found


def workload_of(where: str, document: dict[str, Any]) -> Workload:
    """Check the keys of a workload.

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """
    try:
        return Workload.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{where}: {first_complaint(error, 'the workload', _unknown)}") from error


def _builtin_names() -> list[str]:
    return sorted(
        Path(entry.name).stem
        for entry in files("gpuscan.workload.built_in").iterdir()
        if entry.name.endswith(".toml")
    )


def builtin_text(name: str, meant: str = "") -> str:
    """Return the TOML of a built-in workload.

    Args:
        name: of it.
        meant: what else the name may mean, for the complaint.

    Raises:
        InputError: there is none of that name.
    """
    known = _builtin_names()
    if name not in known:
        raise InputError(
            f"unknown workload {name!r}{meant}{suggestion(name, known)}, a TOML file or a snapshot"
        )
    return files("gpuscan.workload.built_in").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _text(name: str) -> str:
    """Return a file's name as text: under the C locale, or where it is no UTF-8, it is made of surrogates."""
    return os.fsencode(name).decode("utf-8", "replace")


def _apply_override(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise InputError(
            f"--set {override}: not of the form key=value; write for example policy.batch_pages=256"
        )
    at: Any = document
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(at, list):
            if re.fullmatch("[0-9]{1,6}", step) is None or int(step) >= len(at):
                raise InputError(
                    f"--set {override}: {'.'.join(steps[:depth])} has items 0 to {len(at) - 1}, "
                    f"not {step!r}; give the position of one"
                )
            index: Any = int(step)
        elif isinstance(at, dict):
            index = step
            if not last:
                at.setdefault(index, {})
        else:
            raise InputError(
                f"--set {override}: {'.'.join(steps[:depth])} is a single value; shorten the key"
            )
        if last:
            at[index] = _override_value(value.strip())
        else:
            at = at[index]


def _override_value(text: str) -> Any:
    """Return ``text`` as a TOML value, or as the string it is: ``100ms`` needs no quotes."""
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _unknown(steps: Sequence[int | str]) -> str:
    return suggestion(str(steps[-1]), _keys_at(steps[:-1]))


def _keys_at(steps: Sequence[int | str]) -> list[str]:
    """Return the keys the model has at a place."""
    model: type[BaseModel] = Workload
    of_producers = table_names()
    for step in steps:
        if isinstance(step, str) and step in MODELS:
            model = MODELS[step]
        elif model is Producer and step in of_producers:
            model = PRODUCERS.get(of_producers[step]).options
    tables = of_producers if model is Producer else {}
    return list(dict.fromkeys([*model.model_fields, *tables]))
