"""The front door: which commands there are, and where an error becomes one sentence and an exit code.

A command's module is imported when that command runs and not before, so
``gpuscan --help`` loads neither NumPy nor Numba, pydantic or rich.
"""

from __future__ import annotations

import errno
import gc
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from io import UnsupportedOperation
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperCommand, TyperGroup

from gpuscan import __version__
from gpuscan.base.errors import GpuscanError
from gpuscan.base.printable import harmless
from gpuscan.base.program import PROGRAM
from gpuscan.cli.streams import plain_streams

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_SIGNAL = 128
"""Plus the number of the signal that ended the command, as shells report it."""
EXIT_PIPE = EXIT_SIGNAL + signal.SIGPIPE


@dataclass(frozen=True, slots=True)
class Called:
    """What a command finds as ``Context.obj``.

    Attributes:
        line: the command line, as it can be given again.
        owns_process: the command is all that this process is there for.
    """

    line: str
    owns_process: bool


_ENDED_BY: dict[int, str] = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

COMMANDS = {
    "run": "Run a workload: sample, scan, batch, migrate; the main job.",
    "resume": "Go on with a run from its last checkpoint.",
    "live": "Move the pages of running processes between real nodes (root).",
    "service": "Keep pages of chosen processes where they belong (root).",
    "ctl": "Ask the service, or tell it what to do.",
    "history": "Show what the service did.",
    "heatmap": "Show where and when a run's accesses and moves happened.",
    "report": "Make one page of a result, to open in a browser.",
    "scan": "Scan a captured snapshot once and show what would be migrated.",
    "inspect": "Say what a file is, what is in it and what can be done with it.",
    "convert": "Write a trace of any format as Parquet or CSV.",
    "capture": "Read this machine's page flags into a snapshot (root).",
    "topology": "Show a machine: nodes, zones, tiers, distances.",
    "workloads": "List the built-in workloads.",
    "doctor": "Show what this machine offers, and why not the GPU.",
    "compare": "Put one stream through every scan design, side by side.",
    "reproduce": "Run published experiments, ours beside theirs.",
    "bench": "Measure scans, requests and ticks against peers.",
}
"""Name -> one line for ``--help``. Command ``x`` is the function ``x`` of the module ``gpuscan.cli.x``,
or a Typer app of that name where it has commands of its own."""

_STREAM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_COLLECT_EVERY_OBJECTS = 50_000
"""Importing NumPy, Numba and pydantic makes hundreds of thousands of objects, and they stay: looking
through them for garbage every 700, Python's default, is a seventh of what ``gpuscan run`` takes to start
(benchmarks/startup.py)."""

_PLAIN_HELP: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False}
"""Typer's boxed help costs 0.12 s for importing rich, half of what ``--help`` may take in all."""

CATALOGUES = {"{designs}": ("design", "gpuscan.designs.built_in")}
"""What an option's help may name -> the kind, and the folder of the built-in ones."""
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__base__)
"""click's UsageError. Typer bundles click from some version on and exports this one subclass only."""


class Interrupted(Exception):  # noqa: N818  # no error of anybody's
    """A signal broke a command off; ``str`` is what its notes (PEP 678) say to do, empty without any."""


class LazyGroup(TyperGroup):
    """A group that lists :data:`COMMANDS` from their one-liners and imports only the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, line in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line, rich_markup_mode=None))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt comes out as :class:`Interrupted`, so 130 is a command's own code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("; ".join(getattr(error, "__notes__", ()))) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, real command and the rest of ``args``; click's error for an unknown name."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, (load_command(name) if name is not None and listed is not None else None), rest


class ListingCommand(TyperCommand):
    """A command whose help names what catalogues have: ``{designs}`` in an option's help.

    A catalogue is asked only where help is shown: other packages may have put something there, and to look
    for them takes 25 ms.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """See click; the lists are put in first."""
        for option in self.params:
            for place, (kind, folder) in CATALOGUES.items():
                said = getattr(option, "help", None) or ""
                if place in said:
                    from gpuscan.base.catalogue import Catalogue

                    names = Catalogue(kind, folder, object, "").names  # the contract is not imported for them
                    cast("Any", option).help = said.replace(place, ", ".join(names))
        super().format_help(ctx, formatter)


def load_command(name: str) -> TyperCommand:
    """Import and return the command ``name``, one of :data:`COMMANDS`."""
    found = getattr(import_module(f"gpuscan.cli.{name}"), name)
    if isinstance(found, typer.Typer):
        return cast("TyperCommand", typer.main.get_command(found))
    single = typer.Typer(**_PLAIN_HELP)
    single.command(name, cls=ListingCommand)(found)
    return cast("TyperCommand", typer.main.get_command(single))


app = typer.Typer(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, **_PLAIN_HELP)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpuscan {__version__}")
        raise typer.Exit


@app.callback()
def gpuscan(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback too; goes anywhere.")] = False,
) -> None:
    """Find the pages that are ready to migrate, group them by target node, move them in batches.

    \b
    Start with:
      gpuscan run                 the default workload on a simulated machine
      gpuscan run --help          everything a run takes
      gpuscan doctor              what this machine offers

    Results go to standard output, progress and errors to standard error.
    Exit codes: 0 done, 1 the run failed, 2 wrong usage or input, 3 the device
    asked for is not there; 130 interrupted, 143 terminated, 129 hung up, 141 the
    reader of standard output is gone. 'gpuscan live -- COMMAND' passes on COMMAND's.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code.

    Every error ends as one line on stderr, ``gpuscan: error: <sentence>``; with
    ``--debug`` after its traceback.
    """
    _open_closed_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    # Taken out wherever it stands: who is asked for --debug appends it to the line from the history.
    args = [arg for arg in args if arg != "--debug"] or ["--help"]
    with plain_streams(), _rare_collections(), _signals() as received, warnings.catch_warnings():
        warnings.showwarning = _note_warning
        called = Called(shlex.join((PROGRAM, *args)), owns_process=argv is None)
        return _run(args, debug, received, called)


def _run(args: list[str], debug: bool, received: list[int], called: Called) -> int:
    try:
        command = typer.main.get_command(app)
        code = command.main(args, prog_name=PROGRAM, standalone_mode=False, obj=called)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        return _fail(_usage_sentence(error), EXIT_USAGE, debug)
    except GpuscanError as error:
        return _fail(str(error), error.exit_code, debug)
    except (BrokenPipeError, SystemExit):
        # Whoever read us has enough (`| head`). Where it meets that itself, click exits with 1.
        _drop_stdout()
        return EXIT_PIPE
    except (Interrupted, KeyboardInterrupt) as error:
        ended_by = received[0] if received else signal.SIGINT
        how = _ENDED_BY.get(ended_by, "interrupted")
        return _fail(f"{how}; {error}" if str(error) else how, EXIT_SIGNAL + ended_by, debug=False)
    except MemoryError as error:
        return _fail(
            f"out of memory: {error}; ask for less, a smaller --memory for example", EXIT_FAILED, debug
        )
    except OSError as error:
        return _fail(_system_sentence(error), EXIT_FAILED, debug)
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        again = "" if debug else "run again with --debug and "
        return _fail(f"internal error: {text}; {again}report it", EXIT_FAILED, debug)
    return code if isinstance(code, int) else EXIT_OK


def _open_closed_streams() -> None:
    """Give a command that was started without stdout or stderr (``>&-``) /dev/null for it.

    Else the first file it opens gets the number 1 or 2, and what is printed goes there.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # open for good
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect cyclic garbage rarely; see :data:`_COLLECT_EVERY_OBJECTS`."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: cleaned up. Yields those that came."""
    received: list[int] = []

    def interrupt(signum: int, _: object) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    before = {}
    for signum in _ENDED_BY:
        if signal.getsignal(signum) is signal.SIG_DFL:  # not under nohup
            with suppress(ValueError):  # not in the main thread: the caller's affair
                before[signum] = signal.signal(signum, interrupt)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _note_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"{harmless(f'gpuscan: note: {message}')}\n")


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # Not by click's echo, which writes UTF-8 where the stream says that it takes ASCII.
    sys.stderr.write(f"{harmless(f'gpuscan: error: {chr(32).join(sentence.split())}')}\n")
    return code


def _usage_sentence(error: Exception) -> str:
    """Return click's complaint in our form, with the help text that answers it."""
    message: str = cast("Any", error).format_message().replace(". Did you", ": did you").strip(" .?")
    if error.__cause__ is not None:  # Typer 0.29 hands down what pydantic says
        from pydantic import ValidationError

        if isinstance(error.__cause__, ValidationError):
            from gpuscan.base.complaints import first_complaint

            said = error.__cause__.errors(include_url=False)[0]["msg"].strip(" .")
            message = message.replace(said, first_complaint(error.__cause__, "it", lambda _: "").strip(" ."))
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    return f"{message[:1].lower()}{message[1:]}; see '{command} --help'"


def _system_sentence(error: OSError) -> str:
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.filename is None and error.errno in _STREAM_ERRORS:  # files are written under their names
        _drop_stdout()
        said = f"cannot write to standard output: {said}"
    elif error.filename is not None:
        said = f"{error.filename}: {said}"
    return f"{said}; fix that and run again"


def _drop_stdout() -> None:
    """Point stdout at /dev/null, or the interpreter complains when it flushes at exit."""
    with suppress(UnsupportedOperation), Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
