"""perf's own recordings, as the perf of this host prints them, where it has one.

``perf evlist`` says whether it is damo's (``damo record --output_type perf_data``), which has DAMON's
tracepoint and nothing else; then ``perf script`` is read as :mod:`gpuscan.traces.built_in.damon_tracepoint`
does, else with the options that :mod:`gpuscan.traces.built_in.perf` takes. perf is a large program that
parses what somebody may have made to do harm: it gets bounded memory and time, no configuration, and no
terminal.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.files.reading import open_file
from gpuscan.traces.advice import DAMO
from gpuscan.traces.built_in import damon_tracepoint, perf
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.pieces import check_plain
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import lines_in

_MEMORY_BYTES = 4 << 30
_CPU_S = 600
_LIST_BYTES_MAX = 1 << 20
_LIST_S = 60.0
_DAMON = b"damon:damon_aggregated"


def _perf() -> str | None:
    return shutil.which("perf")


@contextmanager
def _running(path: Path, command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of perf on a recording; it is gone at the end.

    Raises:
        InputError: there is no perf.
        OSError: it cannot be started.
    """
    program = _perf()
    if program is None:
        raise InputError(f"{path} {_turned(path, 'there is no perf here to read it')}")
    os.close(open_file(path))  # no FIFO, no device
    child = subprocess.Popen(
        [program, command, "-i", str(path.absolute()), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PERF_CONFIG": os.devnull,
            "DEBUGINFOD_URLS": "",
            "PERF_PAGER": "cat",
            "LC_ALL": "C",
        },
    )
    try:
        for what, limit in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_S)):
            resource.prlimit(child.pid, what, (limit, limit))
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


class _Output:
    """What a child prints."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readinto(self, place: memoryview) -> int:
        return os.readv(self._fd, [place])


def _is_of_damon(path: Path) -> bool:
    """Whether DAMON's tracepoint was recorded.

    Raises:
        InputError: perf cannot say.
        OSError: it cannot be run.
    """
    with _running(path, "evlist") as child:
        try:
            listed, _ = child.communicate(timeout=_LIST_S)
        except subprocess.TimeoutExpired:
            raise InputError(f"{path} {_turned(path, 'perf evlist does not end')}") from None
        if child.returncode:
            raise InputError(f"{path} {_turned(path, f'perf evlist ended with {child.returncode}')}")
    return _DAMON in listed[:_LIST_BYTES_MAX]


def read_perf_data(
    path: Path,
    on_read: Callable[[int], None],
    *,
    one_target: bool = False,
    n_looks: int = damon_tracepoint.LOOKS,
) -> Iterator[Samples]:
    """Yield the samples or regions of a recording, these as :func:`damon_tracepoint.read_tracepoint`.

    Raises:
        InputError: perf cannot read it, or prints what is none of both, or there are several targets.
        OSError: the file cannot be read.
    """
    of_damon = _is_of_damon(path)
    options = () if of_damon else ("--ns", *perf.SCRIPT.split())
    with _running(path, "script", *options) as child:
        assert child.stdout is not None
        output = _Output(child.stdout.fileno())
        if of_damon:
            yield from damon_tracepoint.samples_in(
                path, lines_in(path, output), one_target=one_target, n_looks=n_looks
            )
        else:
            yield from perf.samples_in(path, output)
        ended = child.wait()
    if ended:
        raise InputError(
            f"{path} {_turned(path, f'perf script ended with {ended}, and that is not all of it')}"
        )
    on_read(path.stat().st_size)


def _sniff(start: bytes) -> Sniff:
    return Sniff.IS if start.startswith(perf.RECORDING) and _perf() else Sniff.NO


def _advice(path: Path, start: bytes) -> str:
    return _turned(path, "there is no perf here to read it") if start.startswith(perf.RECORDING) else ""


def _turned(path: Path, why: str) -> str:
    """Return what to do with a recording that cannot be read, after its name."""
    return (
        f"is perf's own recording; {why}, so turn it into text: perf script -i {path} {perf.SCRIPT} (one of "
        f"damo's, of DAMON's regions, into JSON: {DAMO} {path})"
    )


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    check_plain(path)
    if not _is_of_damon(path):
        return TRACE_FORMAT
    same = damon_tracepoint.TRACE_FORMAT
    of_regions = replace(
        TRACE_FORMAT,
        noun=same.noun,
        knows_cpus=same.knows_cpus,
        outside_advice=same.outside_advice,
        given=same.given,
    )
    return damon_tracepoint.as_given(of_regions, read_perf_data, given)


TRACE_FORMAT = TraceFormat(
    about="a recording of perf, where there is a perf",
    noun="sample",
    knows_cpus=True,
    sniff=_sniff,
    advice=_advice,
    outside_advice="",
    read=read_perf_data,
    is_virtual=False,
    assumes="",
    given={},
    of_file=_of_file,
)
