"""All trace formats: those in ``built_in``, and others' by the entry points ``gpuscan.traces``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.traces.advice import how_to_unpack
from gpuscan.traces.contract import Sniff, TraceFormat

TRACES = Catalogue(
    "trace format", "gpuscan.traces.built_in", TraceFormat, "TRACE_FORMAT", group="gpuscan.traces"
)


def told_by(path: Path, start: bytes) -> str:
    """Return the name of the format that a file has, by its first bytes.

    Raises:
        InputError: no format knows it, several do, or it looks like one and is not.
    """
    sure, maybe, advice = [], [], []
    formats, unusable = TRACES.usable()
    for name, one in formats.items():
        sniffed = one.sniff(start)
        if sniffed is Sniff.IS:
            sure.append(name)
        elif sniffed is Sniff.MAY_BE:
            maybe.append(name)
        advice.append(one.advice(path, start))
    if len(sure) == 1:
        return sure[0]
    if sure:
        whose = ", ".join(f"{name} ({TRACES.origin(name) or 'gpuscan'})" for name in sure)
        raise InputError(f"{path} looks like a trace of several formats: {whose}; uninstall all but one")
    advice.insert(0, how_to_unpack(path, start))
    if any(advice):
        raise InputError(f"{path} {next(filter(None, advice))}")
    if maybe:
        return maybe[0]
    if unusable:
        raise next(iter(unusable.values()))
    raise InputError(f"{path} is no trace that can be read; {remedy()}")


def of_file(name: str, path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    """Return what is true of a file that has a format.

    Args:
        name: of the format.
        path, start: of the file, and how it begins.
        given: what its user says of it.
    """
    fmt = TRACES.get(name)
    return fmt if fmt.of_file is None else fmt.of_file(path, start, given)


def remedy() -> str:
    """Say what a trace may be."""
    *others, last = [one.about for one in TRACES.usable()[0].values()]
    return f"give {', '.join(others)} or {last}" if others else f"give {last}"
