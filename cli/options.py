"""Options of a command, made of dataclasses whose fields are described (:mod:`gpuscan.base.described`).

    @takes_options
    def run(request: RunRequest, voice: Voice) -> None:

has every option that ``RunRequest`` and ``Voice`` describe, in their order, and is called with one of each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from gpuscan.base.described import Described, Option, described, described_fields, flag_of
from gpuscan.base.errors import InputError

if TYPE_CHECKING:
    from gpuscan.cli.output import Output

AGAIN = "again"
"""``Annotated[RunRequest, AGAIN]``: only what may be given where a run goes on, as it is put there."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How a command speaks."""

    as_json: bool = described(False, Option("Print one JSON document.", ("--json",)))
    quiet: bool = described(False, Option("No progress, no notes.", ("--quiet", "-q")))

    def output(self) -> Output:
        """Return what the command says things to."""
        from gpuscan.cli.output import Output

        return Output(self.as_json, quiet=self.quiet)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for Typer whose parameters are dataclasses: each of their fields is an option."""
    hints = get_type_hints(command, include_extras=True)
    parts: dict[str, list[_Parameter]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        marks: list[Any] = []
        cls: Any = hints[name]
        if get_origin(cls) is Annotated:
            cls, *marks = get_args(cls)
        if is_dataclass(cls):
            parts[name] = _parameters_of(cls, again=AGAIN in marks)
            parameters += [made for part in parts[name] for made in part.for_typer()]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def called(**given: Any) -> None:
        requests = {
            name: part[0].cls(**{each.name: each.taken(given) for each in part})
            for name, part in parts.items()
        }
        command(**given, **requests)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__module__, called.__qualname__ = command.__module__, command.__qualname__
    # Options with a default, as Typer has them, may come before a parameter without: keywords only.
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    called.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in keywords}
    return called


def _parameters_of(cls: Any, *, again: bool) -> list[_Parameter]:
    types = get_type_hints(cls)
    return [_Parameter(cls, each, types[each.name]) for each in _offered(cls, again=again)]


def _offered(cls: Any, *, again: bool) -> Iterator[Described]:
    for each in described_fields(cls):
        if not again:
            yield each
        elif each.option.again is not None:
            put = each.option.again
            option = replace(each.option, help=put.help or each.option.help)
            yield replace(each, option=option if put.low is None else replace(option, low=put.low))


class _Parameter:
    """One field of a request as parameters of a command: its own, and one hidden for earlier spellings."""

    def __init__(self, cls: Any, each: Described, of_type: Any) -> None:
        self.cls = cls
        self.name = each.name
        self._each = each
        self._type = of_type
        self._is_many = get_origin(of_type) is tuple and each.option.parse is None

    def for_typer(self) -> Iterator[inspect.Parameter]:
        """Yield what Typer makes options of."""
        option, default = self._each.option, None if self._is_many else self._each.default
        kind = self._kind()
        if option.is_argument:
            made = typer.Argument(metavar=option.metavar, help=option.help)
            yield _parameter(self.name, kind, made, default)
            return
        yield _parameter(self.name, kind, _option(self._flags(), option), default)
        if option.was:
            yield _parameter(self._was, kind | None, _option(option.was, option, hidden=True), None)

    def taken(self, given: dict[str, Any]) -> Any:
        """Take the value of this field out of those that Typer found.

        Raises:
            InputError: it was given under two names, or its text says nothing.
        """
        value, earlier = given.pop(self.name), given.pop(self._was, None)
        option = self._each.option
        if earlier is not None:
            if value != self._each.default:
                raise InputError(
                    f"{option.was[0]} is an earlier name of {flag_of(self._each)}; give one of them"
                )
            value = earlier
        if self._is_many:
            return tuple(value or ())
        if isinstance(value, StrEnum):
            return value.value
        return option.parse(value) if option.parse and value is not None else value

    @property
    def _was(self) -> str:
        return f"earlier_{self.name}"

    def _kind(self) -> Any:
        """Return the type that Typer is to read it as."""
        option = self._each.option
        if self._is_many:
            return list[get_args(self._type)[0]] | None  # type: ignore[misc]  # known when it runs
        kind = self._type if option.parse is None else str
        if option.choices:
            kind = _choice_of(option.choices)
        return kind if self._each.default is not None else kind | None

    def _flags(self) -> tuple[str, ...]:
        option = self._each.option
        if option.flags or not option.has_no:
            return option.flags or (flag_of(self._each),)
        return (f"{flag_of(self._each)}/--no-{flag_of(self._each).removeprefix('--')}",)


def _choice_of(choices: tuple[str, ...]) -> Any:
    make: Any = StrEnum
    return make("Choice", [(choice, choice) for choice in choices])


def _option(flags: tuple[str, ...], option: Option, *, hidden: bool = False) -> Any:
    return typer.Option(
        *flags, metavar=option.metavar, min=option.low, max=option.high, help=option.help, hidden=hidden
    )


def _parameter(name: str, kind: Any, made: Any, default: Any) -> inspect.Parameter:
    annotation: Any = Annotated[kind, made]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
