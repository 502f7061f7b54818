"""Options that take one of a catalogue's names: known before anything in it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer


def one_of(names: Sequence[str]) -> dict[str, Any]:
    """Return what makes a ``typer.Option`` take one of ``names``, as it takes the members of an enum."""

    def parse(given: str) -> str:
        if given not in names:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(map(repr, names))}")
        return given

    return {"parser": parse, "metavar": f"[{'|'.join(names)}]"}
