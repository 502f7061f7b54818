"""What a user says of a trace because its file does not, by key: ``--given KEY=VALUE``, ``source.given``.

A format declares the keys that it takes, and reads them in its ``of_file``. One is known to all whose
addresses are, or may be, a process's: :data:`PAGES`, the page table to translate them by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.base.units import parse_bytes, parse_time_ns
from gpuscan.traces.contract import TraceFormat

PAGES = "pages"
PAGES_LINE = "which page is in which frame, a table that gpuscan capture --pages wrote"
_NUMBER = re.compile(r"[0-9]{1,18}|0x[0-9a-fA-F]{1,15}")


def known_keys(fmt: TraceFormat) -> dict[str, str]:
    """Return what may be given of a trace of a format, by key: what it is."""
    of_processes = fmt.is_virtual or bool(fmt.outside_advice)
    return {**fmt.given, **({PAGES: PAGES_LINE} if of_processes else {})}


def check_known(path: Path, kind: str, fmt: TraceFormat, given: Mapping[str, str]) -> None:
    """Refuse what a trace has no use for.

    Raises:
        InputError: there is such a key.
    """
    known = known_keys(fmt)
    for key, value in given.items():
        if key not in known:
            takes = "; ".join(f"{name}=... ({line})" for name, line in known.items()) or "nothing"
            raise InputError(
                f"--given {key}={value}: {path} is a trace of the format {kind}, of which may be given: "
                f"{takes}; leave out {key}"
            )


def check_one_target(path: Path, n_targets: int) -> None:
    """Refuse DAMON's regions of several processes by one page table: they do not say which is which.

    Raises:
        InputError: so they are.
    """
    if n_targets > 1:
        raise InputError(
            f"{path} has {n_targets} targets, and a page table is of one process; record that process alone"
        )


@dataclass(frozen=True, slots=True)
class Given:
    """The values that were given of one file.

    Attributes:
        values: by key, as they were written.
    """

    values: Mapping[str, str]

    def number(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """Return a number, decimal or behind ``0x``.

        Raises:
            InputError: it is none from ``low`` to ``high``.
        """
        text = self.values.get(key)
        if text is None:
            return default
        value = int(text, 0) if _NUMBER.fullmatch(text) and not re.match("0[0-9]", text) else -1
        if not low <= value <= high:
            raise InputError(
                f"--given {key}={text}: that is no number from {low:,} to {high:,}; give one, decimal or "
                "behind 0x"
            )
        return value

    def size(self, key: str, low: int, high: int) -> int | None:
        """Return a size in bytes, a power of two; None where there is none.

        Raises:
            InputError: it is none from ``low`` to ``high``.
        """
        text = self.values.get(key)
        if text is None:
            return None
        value = self._parsed(key, parse_bytes, text)
        if value & (value - 1) or not low <= value <= high:
            raise InputError(
                f"--given {key}={text}: that is no power of two from {low:,} to {high:,} bytes; give 4KiB"
            )
        return value

    def time_ns(self, key: str) -> int | None:
        """Return a time in nanoseconds, above 0; None where there is none.

        Raises:
            InputError: it is none.
        """
        text = self.values.get(key)
        if text is None:
            return None
        value = self._parsed(key, parse_time_ns, text)
        if not 0 < value < 1 << 50:
            raise InputError(
                f"--given {key}={text}: that is too short or too long; give a time such as 100ms"
            )
        return value

    @staticmethod
    def _parsed(key: str, parse: Callable[[str], int], text: str) -> int:
        try:
            return parse(text)
        except InputError as error:
            raise InputError(f"--given {key}={text}: {error}") from error
