"""Options made of dataclasses: what a command is called with, and how an option was written before."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import gpuscan.cli
from gpuscan.base.described import Again, Option, described, described_fields, flag_of, like
from gpuscan.base.errors import InputError
from gpuscan.base.units import parse_time_ns
from gpuscan.cli.main import load_command, main
from gpuscan.cli.options import AGAIN, Voice, takes_options

MODULES = [
    *("gpuscan.run.request", "gpuscan.compare.request", "gpuscan.live.request"),
    *(f"gpuscan.cli.{found.name}" for found in pkgutil.iter_modules(gpuscan.cli.__path__)),
]
REQUESTS: list[Any] = [
    thing
    for module in MODULES
    for thing in vars(importlib.import_module(module)).values()
    if is_dataclass(thing) and thing.__module__ == module and list(described_fields(thing))  # type: ignore[arg-type]
]
EARLIER = [
    ("live", "--source", "--monitor"),
    ("capture", "--source", "--monitor"),
]


@dataclass(frozen=True, slots=True)
class Asked:
    where: str = described("here", Option("A place.", is_argument=True))
    color: str | None = described(None, Option("A color.", choices=("dark-red", "blue"), again=Again()))
    pause_ns: int = described(
        "2s", Option("A pause.", ("--pause",), metavar="TIME", parse=parse_time_ns, was=("--wait", "--rest"))
    )
    n: int | None = described(None, Option("A number.", low=1, high=9, again=Again("Anew.", low=0)))
    names: tuple[str, ...] = described((), Option("Names.", ("--name", "-n")))
    place: Path | None = described(None, Option("A file."))
    loud: bool = described(False, Option("Loud."))
    pictures: bool = described(True, Option("Pictures.", has_no=True))
    made: int = 5


def called(command: Any, *args: str) -> Any:
    """Call a command as Typer does, and return what it was called with."""
    got: list[Any] = []

    def keep(*_: Any, **given: Any) -> None:
        got.append(given)

    keep.__annotations__ = {**command, "return": None}
    keep.__signature__ = _signature(command)  # type: ignore[attr-defined]
    app = typer.Typer()
    app.command()(takes_options(keep))
    typer.main.get_command(app).main(list(args), standalone_mode=False)
    (given,) = got
    return given


def _signature(annotations: dict[str, Any]) -> Any:
    import inspect

    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(name, kind) for name in annotations])


def test_without_options_a_request_is_as_by_default() -> None:
    given = called({"request": Asked, "voice": Voice})
    assert given == {"request": Asked(), "voice": Voice()}
    assert given["request"].pause_ns == 2_000_000_000


def test_every_option_gets_into_its_field() -> None:
    args: tuple[str, ...] = (
        "there",
        "--color",
        "dark-red",
        "--pause",
        "5ms",
        "--n",
        "3",
        "--name",
        "a",
        "-n",
        "b",
    )
    args += ("--place", "x", "--loud", "--no-pictures", "-q")
    given = called({"request": Asked, "voice": Voice}, *args)
    expected = Asked("there", "dark-red", 5_000_000, 3, ("a", "b"), Path("x"), True, False)
    assert given == {"request": expected, "voice": Voice(quiet=True)}


@pytest.mark.parametrize("flag", ["--wait", "--rest"])
def test_an_earlier_name_is_taken_and_not_beside_the_new_one(flag: str) -> None:
    assert called({"request": Asked}, flag, "1s")["request"].pause_ns == 1_000_000_000
    with pytest.raises(InputError, match="--wait is an earlier name of --pause; give one of them"):
        called({"request": Asked}, flag, "1s", "--pause", "3s")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--n", "0"), "range|greater"),
        (("--n", "10"), "range|less"),
        (("--color", "green"), "not one of"),
        (("--no-loud",), "no such option"),
    ],
)
def test_what_an_option_cannot_be_is_refused(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(Exception, match=f"(?i){said}") as caught:
        called({"request": Asked}, *args)
    assert type(caught.value).__name__ in ("BadParameter", "NoSuchOption")


def test_where_something_goes_on_there_are_only_the_options_of_that() -> None:
    again = {"request": Annotated[Asked, AGAIN]}
    assert called(again, "--n", "0", "--color", "blue")["request"] == Asked(n=0, color="blue")
    with pytest.raises(Exception, match=r"(?i)no such option"):
        called(again, "--loud")


def test_a_field_like_another_says_what_differs() -> None:
    @dataclass(frozen=True)
    class Other:
        pause_ns: int = like(Asked, "pause_ns", "3s", help="Another pause.")

    (each,) = described_fields(Other)
    assert (each.option.help, each.option.metavar, flag_of(each)) == ("Another pause.", "TIME", "--pause")
    assert Other().pause_ns == 3_000_000_000


def test_requests_are_found() -> None:
    assert {"RunRequest", "CompareRequest", "LiveRequest", "ScanOptions", "Kept"} <= {
        thing.__name__ for thing in REQUESTS
    }


@pytest.mark.parametrize("request_class", REQUESTS, ids=lambda cls: cls.__name__)
def test_a_command_line_without_options_is_the_request_by_default(request_class: Any) -> None:
    assert called({"request": request_class})["request"] == request_class()


@pytest.mark.parametrize(("command", "earlier", "now"), EARLIER)
def test_options_that_have_another_name_now(
    command: str, earlier: str, now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Any = load_command(command)
    options = {option: parameter for parameter in made.params for option in parameter.opts}
    assert options[earlier].hidden
    assert not options[now].hidden
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert now in shown
    assert earlier not in shown
