"""What a trace format declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscan.traces.samples import Samples

START_BYTES = 4096
"""Of a file's text, inflated where it is compressed, by which its format is told."""


class Sniff(IntEnum):
    """Whether a file is of a format, by its first bytes."""

    NO = 0
    MAY_BE = 1
    """Reading will tell: taken where no format is sure."""
    IS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """What a trace format declares; all of it.

    Attributes:
        about: what to give, after "give": ``text of perf script``.
        noun: one of its samples: ``sample``.
        knows_cpus: whether every sample has the CPU that accessed the pages; else none has.
        sniff: says by the first :data:`START_BYTES` of a file whether it is one.
        advice: what to say, after the file's name, where the file at a path that begins with these bytes
            looks as if it were one and is not; empty where it does not.
        outside_advice: what to add, after "give the machine it was recorded on", where nothing of a trace is
            in the memory of the machine; may be empty. A format that has some does not say whether its
            addresses are physical: a trace with a region beyond the machine's memory is refused.
        read: yields the samples of a file, ascending by time; tells how many bytes it has read since it told
            last. Raises an :class:`InputError` that names line or key where the file is cut short, out of
            order or foreign, and lets :class:`OSError` pass.
        is_virtual: whether its addresses are a process's: its pages get frames of their own, or a page table
            is given.
        assumes: what it does not say and is taken to be, for the reader of a result; may be empty.
        given: what a user may say of a file because it does not, by key: what that is
            (``--given``, :mod:`gpuscan.traces.given`).
        of_file: returns what is true of the file at a path, which begins with these bytes and of which this
            was given; None where that is the same for all files.
    """

    about: str
    noun: str
    knows_cpus: bool
    sniff: Callable[[bytes], Sniff]
    advice: Callable[[Path, bytes], str]
    outside_advice: str
    read: Callable[[Path, Callable[[int], None]], Iterator[Samples]]
    is_virtual: bool
    assumes: str
    given: Mapping[str, str]
    of_file: Callable[[Path, bytes, Mapping[str, str]], TraceFormat] | None
