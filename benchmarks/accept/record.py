"""What the run leaves: ``gpu.json`` with every figure, ``gpu.md`` to read, written after each result."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accept.figures import WrongAnswerError
from accept.parts import CALL_S, CALLS, MUST_PASS, PARTS, Deadline, Scale
from accept.rig import Rig, own_hash
from accept.tables import markdown
from gpuscan.files.writing import json_text, write_file
from gpuscan.kernels.cuda.source import source_hash

JSON_FILE, MARKDOWN_FILE = "gpu.json", "gpu.md"
_LAST_S = 5.0
"""What a call may take beyond its time to finish what it has begun; then that is given up. As much again, and
the process ends: Python hears of no signal while it waits for a kernel that never ends."""
_PACKAGES = ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x")


class Record:
    """The document of a run.

    Args:
        out: directory for the two files, made if it is not there.
        rig: the machine.
        scale: sizes and limits.
    """

    def __init__(self, out: Path, rig: Rig, scale: Scale) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self.document: dict[str, Any] = {
            "what": "gpu_accept",
            "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
            "rig": rig.name,
            "scale": scale.name,
            **rig.facts(),
            "kernel_sources": source_hash(),
            "accept_sources": own_hash(),
            "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
            "correct": None,
            "parts": {},
        }
        self.flush()

    def flush(self) -> None:
        """Write both files."""
        for name, text in (
            (JSON_FILE, json_text(self.document) + "\n"),
            (MARKDOWN_FILE, markdown(self.document)),
        ):
            write_file(self._out / name, text)


def run_parts(record: Record, rig: Rig, scale: Scale, names: Sequence[str]) -> int:
    """Run parts and record them; return 1 when something was wrong or a check was given up, else 0.

    Those of one call have the time of one, whatever single parts would take.
    """
    is_wrong, all_checked = False, True
    totals: dict[tuple[str, ...], Deadline] = {}
    for name in names:
        (call,) = (each for each in CALLS if name in each)
        total = totals.setdefault(call, Deadline(CALL_S))
        part: dict[str, Any] = {"status": "running", "results": []}
        record.document["parts"][name] = part
        record.flush()
        deadline = Deadline(min(scale.limits_s[name], total.left_s()))
        started = time.monotonic()

        def hangs(name: str = name, part: dict[str, Any] = part) -> None:
            part |= {"status": "failed", "error": "it did not end, and was ended with its process"}
            record.document["correct"] = False if name in MUST_PASS else None
            record.flush()
            print(f"{name}: {part['error']}", file=sys.stderr, flush=True)
            _end()

        try:
            with _given_up_after(total.left_s() + _LAST_S, hangs):
                for result in PARTS[name](rig, scale, deadline):
                    part["results"].append(result)
                    _say(name, result)
                    record.flush()
        except TimeUp:
            part["results"].append(
                {"case": name, "left_out": "given up in the middle: the call's time was over"}
            )
            all_checked = all_checked and name not in MUST_PASS
        except Exception as error:  # one part that fails must not cost the others
            part["error"] = f"{type(error).__name__}: {error}"
            part["traceback"] = traceback.format_exc().splitlines()
            print(f"{name}: {part['error']}", file=sys.stderr, flush=True)
            is_wrong = is_wrong or name in MUST_PASS or isinstance(error, WrongAnswerError)
        with suppress(Exception):  # a device that is broken says so in the next part
            rig.trim()
        failed = [result for result in part["results"] if "error" in result]
        is_wrong = is_wrong or any(name in MUST_PASS or result["wrong"] for result in failed)
        part["status"] = "failed" if "error" in part or failed else "done"
        part["seconds"] = round(time.monotonic() - started, 2)
        record.document["correct"] = not is_wrong if is_wrong or all_checked else None
        record.flush()
    return 0 if all_checked and not is_wrong else 1


class TimeUp(BaseException):
    """The time of a call is over. No Exception: whoever notes what fails of a case does not note this."""


@contextmanager
def _given_up_after(seconds: float, hangs: Callable[[], None]) -> Iterator[None]:
    """Raise TimeUp in the block after so many seconds: one case must not cost the call's results.

    ``hangs`` is called by a thread if the block goes on for ``_LAST_S`` after that.
    """

    def give_up(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    watchdog = threading.Timer(seconds + _LAST_S, hangs)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end() -> None:
    os._exit(1)


def _say(name: str, result: dict[str, Any]) -> None:
    """Show on stderr that something was finished."""
    what = result.get("case") or result.get("tool") or f"{result.get('n_pages', '')} pages"
    density = f" at {result['density']:g}" if "density" in result else ""
    ended = result.get("error") or result.get("left_out") or "done"
    print(f"{name}: {what}{density}: {ended}", file=sys.stderr, flush=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
