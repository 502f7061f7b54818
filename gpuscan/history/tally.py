"""What a history comes to: sums by policy, and a note in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def tally(notes: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each policy did, by its name.

    Args:
        notes: as :func:`gpuscan.history.reading.read_notes` yields them.
    """
    moved: dict[str, Counter[str]] = {}
    demoted: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {}
    for note in notes:
        name = note["policy"]
        if note["kind"] == "moved" and name is not None:
            moved.setdefault(name, Counter()).update(note["moved_pages_to"])
            refused.setdefault(name, Counter()).update(note["refused"])
            demoted[name] += note["demoted_pages"]
    return {
        name: {
            "moved_pages_to": dict(sorted(nids.items(), key=lambda each: int(each[0]))),
            "promoted_pages": nids.total() - demoted[name],
            "demoted_pages": demoted[name],
            "refused": dict(refused[name].most_common()),
        }
        for name, nids in moved.items()
    }


def said(note: Mapping[str, Any]) -> str:
    """Return what a note says beside its time, kind and policy; what is empty is left out."""
    rest = ((key, value) for key, value in note.items() if key not in ("t_ns", "kind", "policy"))
    return ", ".join(f"{key} {value}" for key, value in rest if value)
