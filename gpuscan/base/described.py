"""Fields of dataclasses that say what they are, so that a front door can be made of them.

A request is a frozen dataclass whose fields are :func:`described`: in one place each has its name, type and
default, the line that a person reads, how it is written, and what it may be. ``gpuscan.cli.options`` makes
options of a command of them, and :mod:`gpuscan.run.kept` what a checkpoint keeps of them. This module knows
neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

_KEY, _LIKE = "described", "like"
_SAME = object()


@dataclass(frozen=True, slots=True)
class Again:
    """How an option is put where a run goes on; None = as where it began.

    Attributes:
        help: the line.
        low: its least value.
    """

    help: str | None = None
    low: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """What a field is, to who gives it a value.

    Attributes:
        help: one line.
        flags: how it is written; by default ``--name``, of the field's name.
        metavar: what is written after it: ``SIZE``.
        low, high: bounds of a number.
        choices: all that it may be, where these are known.
        parse: what makes the value of a text, such as :func:`gpuscan.base.units.parse_time_ns`; the default
            is a text then, too. None = it is taken as it is: a text, number, path or flag by its type.
        is_argument: given by its place, not by a flag.
        has_no: of a flag: ``--no-name`` says the opposite.
        was: how it was written in earlier versions, which is still taken.
        kept: a checkpoint keeps it.
        trusted: a run that goes on takes it from its checkpoint, which may be anybody's.
        again: whether, and how, it may be given where a run goes on.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    is_argument: bool = False
    has_no: bool = False
    was: tuple[str, ...] = ()
    kept: bool = False
    trusted: bool = True
    again: Again | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """One field: its name and type, its default as it is written, and what it is."""

    name: str
    type: Any
    default: Any
    option: Option


def described(default: Any, option: Option) -> Any:
    """Return a field of a dataclass.

    Args:
        default: its value where nobody gives one; where ``option`` parses, the text of that.
        option: what it is.
    """
    parsed = option.parse(default) if option.parse and default is not None else default
    return field(default=parsed, metadata={_KEY: (option, default)})


def like(cls: type[Any], name: str, default: Any = _SAME, **changes: Any) -> Any:
    """Return a field that is as one of another dataclass, but for what changes.

    Args:
        cls: the other dataclass.
        name: of its field.
        default: see :func:`described`; the other's, where none is given.
        changes: of its :class:`Option`.
    """
    found = next(each for each in described_fields(cls) if each.name == name)
    made = described(found.default if default is _SAME else default, replace(found.option, **changes))
    made.metadata = {**made.metadata, _LIKE: cls}
    return made


def values_like(cls: type[Any], request: Any) -> dict[str, Any]:
    """Return the values of those fields of a request that are :func:`like` one of another dataclass."""
    return {
        place.name: getattr(request, place.name)
        for place in fields(request)
        if place.metadata.get(_LIKE) is cls
    }


def described_fields(cls: type[Any]) -> Iterator[Described]:
    """Yield the described fields of a dataclass, in order; the type is what stands there, maybe as text."""
    for place in fields(cls):
        if _KEY in place.metadata:
            option, default = place.metadata[_KEY]
            yield Described(place.name, place.type, default, option)


def flag_of(each: Described) -> str:
    """Return how an option is written: ``--name``."""
    return each.option.flags[0] if each.option.flags else f"--{each.name.replace('_', '-')}"
