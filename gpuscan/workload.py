"""Workloads by name or from a TOML file, with ``key=value`` overrides; what is wrong is said in one sentence.

``gpuscan/workloads/cxl-promote.toml`` is the annotated example (``gpuscan workloads cxl-promote``
prints it), docs/workload.md and :mod:`gpuscan.workload_model` list every key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gpuscan.complaints import first_complaint
from gpuscan.errors import InputError
from gpuscan.reading import TOML_BYTES_MAX, UnfitError, parse_toml, read_file, toml_place
from gpuscan.workload_model import MODELS, Workload, suggestion

__all__ = ["DEFAULT_WORKLOAD", "Workload", "builtin_text", "builtin_workloads", "load_workload"]

DEFAULT_WORKLOAD = "cxl-promote"


def builtin_workloads() -> list[tuple[str, str]]:
    """Return name and line of every built-in workload, the default first, then by name."""
    names = sorted(_builtin_names(), key=lambda name: (name != DEFAULT_WORKLOAD, name))
    return [(name, tomllib.loads(builtin_text(name))["shows"]) for name in names]


def load_workload(name_or_path: str, overrides: Sequence[str] = ()) -> Workload:
    """Return a built-in workload, or one from a TOML file.

    Args:
        name_or_path: a name of :func:`builtin_workloads`, or a path (anything with a
            slash or the suffix ``.toml``).
        overrides: ``key=value`` with dotted keys, list items by position
            (``processes.0.memory=30%``); values as in TOML, strings without quotes too.

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
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        where, name, text = name_or_path, Path(name_or_path).stem, _read(Path(name_or_path))
    else:
        where, name, text = f"workload {name_or_path}", name_or_path, builtin_text(name_or_path)
    document = _parse_toml(where, text)
    for override in overrides:
        _apply_override(document, override)
    document.setdefault("name", name)
    return where, document


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
        for entry in files("gpuscan.workloads").iterdir()
        if entry.name.endswith(".toml")
    )


def builtin_text(name: str) -> str:
    """Return the TOML of a built-in workload.

    Raises:
        InputError: there is none of that name.
    """
    known = _builtin_names()
    if name not in known:
        raise InputError(f"unknown workload {name!r}{suggestion(name, known)}, a TOML file or a snapshot")
    return files("gpuscan.workloads").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return read_file(path, TOML_BYTES_MAX).decode()
    except OSError as error:
        raise InputError(
            f"cannot read the workload {path}: {error.strerror}; give a built-in name or a TOML file"
        ) from error
    except UnfitError as error:
        raise InputError(f"the workload {path} {error}; give a built-in name or a TOML file") from error
    except ValueError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); a workload is a TOML file") from error


def _parse_toml(where: str, text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        place, message = toml_place(error)
        raise InputError(f"{where}{place}: {message}; fix the TOML there") from error
    except ValueError as error:  # a number of 5000 digits; lists in lists in lists
        raise InputError(f"{where}: TOML that cannot be read ({error}); simplify it") from error


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
    for step in steps:
        if isinstance(step, str) and step in MODELS:
            model = MODELS[step]
    return list(model.model_fields)
