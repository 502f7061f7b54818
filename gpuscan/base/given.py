"""``--given KEY=VALUE``: what each command that has it says of it, and what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpuscan.base.described import Option
from gpuscan.base.errors import InputError

GIVEN_OPTION = Option(
    "Say of the trace what its file does not: pages=FILE, unit=4KiB (docs/traces.md); can be repeated.",
    ("--given",),
    metavar="KEY=VALUE",
)

_GIVEN = re.compile(r"([a-z][a-z_]{0,30})=(.{1,4096})", re.ASCII | re.DOTALL)


def parse_given(texts: Sequence[str]) -> dict[str, str]:
    """Return what ``--given`` says, by key.

    Raises:
        InputError: one is not ``KEY=VALUE``, or a key is given two values.
    """
    given: dict[str, str] = {}
    for text in texts:
        match = _GIVEN.fullmatch(text.strip())
        if match is None:
            raise InputError(f"--given {text}: that is not KEY=VALUE; write for example --given unit=4KiB")
        if given.setdefault(match[1], match[2]) != match[2]:
            raise InputError(f"--given {text}: {match[1]} is {given[match[1]]} too; give one of them")
    return given
