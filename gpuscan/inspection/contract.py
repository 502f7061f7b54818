"""What a kind of file declares, and what is found in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuscan.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is in a file.

    Attributes:
        what: it is, in a few words: ``a trace: text of perf script``.
        rows: what is in it, for people: name and value of each.
        facts: the same for programs, by name.
        commands: what can be done with it: a command line, and what that does.
        notes: what to know besides, a sentence each.
    """

    what: str
    rows: tuple[tuple[str, str], ...]
    facts: dict[str, Any]
    commands: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """What a kind of file declares; all of it.

    Attributes:
        about: one of it, after "give": ``a snapshot``.
        order: kinds of lower order are asked first.
        is_one: whether what is at a path looks like one; does not read all of it. :class:`OSError`,
            ``UnfitError`` and :class:`gpuscan.base.errors.GpuscanError` count as no.
        look: reads it. Is given the path, the machine that the user has named or None, and what to call with
            the bytes read since the last call. Raises an :class:`gpuscan.base.errors.InputError` where it is
            damaged.
        look_with: the same, given what the user says of it because it does not (``--given``), by key; None:
            there is nothing to say.
    """

    about: str
    order: int
    is_one: Callable[[Path], bool]
    look: Callable[[Path, Topology | None, Callable[[int], None]], Findings]
    look_with: (
        Callable[[Path, Topology | None, Callable[[int], None], Mapping[str, str]], Findings] | None
    ) = None
