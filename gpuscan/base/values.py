"""Types of the values in a file that a person writes: strings with a unit, turned into base units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticKnownError

from gpuscan.base.errors import InputError
from gpuscan.base.units import (
    parse_bytes,
    parse_fine_time_ns,
    parse_rate_bytes_per_s,
    parse_share,
    parse_time_ns,
)


def _parsed(parse: Callable[[str], Any], example: str) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write a string such as {example!r}")
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _parse_memory(text: str) -> int | float:
    return parse_share(text) if text.rstrip().endswith("%") else parse_bytes(text)


Bytes = Annotated[int, _parsed(parse_bytes, "64GiB")]
TimeNs = Annotated[int, _parsed(parse_time_ns, "100ms")]
FineTimeNs = Annotated[float, _parsed(parse_fine_time_ns, "2.9ns")]
Rate = Annotated[int, _parsed(parse_rate_bytes_per_s, "100MB/s")]
Share = Annotated[float, _parsed(parse_share, "50%")]
Memory = Annotated[int | float, _parsed(_parse_memory, "70%")]
"""Bytes (int), or a share of the machine's memory (float)."""


class Model(BaseModel):
    """A table: every key is known, every value of its own type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def bytes_of(memory: int | float, memory_bytes: int) -> int:
    """Return a size that may be a share of ``memory_bytes``, those of a machine, in bytes."""
    return memory if isinstance(memory, int) else int(memory * memory_bytes)


def one_of_names(name: str, names: Sequence[str]) -> str:
    """Return a name that is one of those of a catalogue; for a validator, as a ``Literal`` of them.

    Raises:
        PydanticKnownError: it is none.
    """
    if name not in names:
        *most, last = map(repr, names)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(most)} or {last}"})
    return name
