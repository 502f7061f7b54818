"""What pydantic finds wrong with a file, said of TOML: whole numbers and tables, not integers and models."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError


def suggestion(given: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown name: the close match, if any, and all that are known."""
    close = get_close_matches(given, known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; choose one of {', '.join(known)}"


_MUST_BE = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}
"""Type of a pydantic error -> what the value must be, filled with the error's context."""


def first_complaint(
    error: ValidationError, whole: str, unknown_key: Callable[[Sequence[int | str]], str]
) -> str:
    """Return the first thing that is wrong, with its dotted key.

    Args:
        error: of a model in strict mode.
        whole: what to call the document itself.
        unknown_key: gets the path of a key that the model does not have; returns the end of the
            sentence, which says what there is instead.
    """
    problem = error.errors(include_url=False)[0]
    kind, context = problem["type"], problem.get("ctx", {})
    steps = [step for step in problem["loc"] if not (isinstance(step, str) and "[" in step)]
    key = ".".join(_bare(str(step)) for step in steps) or whole
    if kind == "extra_forbidden":
        return f"unknown key {key}{unknown_key(steps)}"
    if kind == "missing":
        return f"key {key} is missing; add it"
    if kind in ("too_short", "string_too_short", "too_long"):
        n_items = context.get("actual_length", len(problem["input"]))
        if not n_items:
            return f"{key} is empty; give at least one"
        limit = context["max_length"] if kind == "too_long" else context["min_length"]
        return f"{key} has {n_items} items; give {limit}"
    if kind == "value_error":
        return f"{key}: {context['error']}" if steps else str(context["error"])
    must_be = _MUST_BE.get(kind)
    if must_be is None:
        return f"{key} cannot be {shortened(problem['input'])}; give another value"
    return f"{key} must be {must_be.format(**context)}, not {shortened(problem['input'])}"


def shortened(value: Any) -> str:
    """Return ``value`` as Python shows it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bare(step: str) -> str:
    """Return a key as TOML writes it: quoted where it is not a bare key."""
    return step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else repr(step)
