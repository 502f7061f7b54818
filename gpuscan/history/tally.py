"""What a history comes to: sums by policy, and a note in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuscan.base.documents import table, text, whole
from gpuscan.base.errors import ArgumentError

COUNT_MAX = 1 << 53
_NODES_MAX = 1 << 20
_BY_KERNEL = {"up": "promoted_pages", "down": "demoted_pages"}


@dataclass(frozen=True, slots=True)
class Moved:
    """A note of what was moved, checked.

    Attributes:
        rule: that asked for it.
        pages_to: base pages that arrived, by nid.
        demoted_pages: of these, those that went down.
        refused: folios by reason.
    """

    rule: str
    pages_to: Mapping[int, int]
    demoted_pages: int
    refused: Mapping[str, int]

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Moved:
        """Read a note of the kind ``moved``.

        Raises:
            ArgumentError: it is not what gpuscan writes.
        """
        pages_to = pages_by_node(note, "moved_pages_to")
        refused = table(note.get("refused"), "what was refused")
        return cls(
            text(note.get("policy"), "the rule of a note"),
            pages_to,
            whole(note.get("demoted_pages"), 0, sum(pages_to.values()), "the pages that went down"),
            {text(why, "a reason"): whole(n, 0, COUNT_MAX, "a count") for why, n in refused.items()},
        )

    @property
    def promoted_pages(self) -> int:
        """Base pages that went up."""
        return sum(self.pages_to.values()) - self.demoted_pages


def moved_by_kernel(note: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Return the rule of a note of the kind ``kernel`` that has one, and base pages by ``up`` and ``down``.

    Raises:
        ArgumentError: it is not what gpuscan writes.
    """
    pages = {way: whole(note.get(key), 0, COUNT_MAX, "a count of pages") for way, key in _BY_KERNEL.items()}
    return text(note.get("policy"), "the rule of a note"), pages


def pages_by_node(note: Mapping[str, Any], key: str) -> dict[int, int]:
    """Return counts of base pages by nid out of a note.

    Raises:
        ArgumentError: they are not what gpuscan writes.
    """
    found: dict[int, int] = {}
    for name, n_pages in table(note.get(key), key).items():
        if not (name.isascii() and name.isdigit() and len(name) < 8):
            raise ArgumentError(f"{key} has a node that is no number")
        found[whole(int(name), 0, _NODES_MAX, "a node")] = whole(n_pages, 0, COUNT_MAX, "a count of pages")
    return found


def tally(notes: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each policy did, by its name.

    Args:
        notes: as :func:`gpuscan.history.reading.read_notes` yields them.

    Raises:
        ArgumentError: one is not what gpuscan writes.
    """
    pages_to: dict[str, Counter[int]] = {}
    demoted: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {}
    by_kernel: dict[str, Counter[str]] = {}
    for note in notes:
        if note["kind"] == "moved":
            moved = Moved.of(note)
            pages_to.setdefault(moved.rule, Counter()).update(moved.pages_to)
            refused.setdefault(moved.rule, Counter()).update(moved.refused)
            demoted[moved.rule] += moved.demoted_pages
        elif note["kind"] == "kernel" and note.get("policy") is not None:
            rule, pages = moved_by_kernel(note)
            pages_to.setdefault(rule, Counter())
            by_kernel.setdefault(rule, Counter()).update(pages)
    none: Counter[str] = Counter()
    return {
        name: {
            "moved_pages_to": {str(nid): n for nid, n in sorted(nids.items())},
            "promoted_pages": nids.total() - demoted[name] + by_kernel.get(name, none)["up"],
            "demoted_pages": demoted[name] + by_kernel.get(name, none)["down"],
            "moved_by_kernel_pages": by_kernel.get(name, none).total(),
            "refused": dict(refused.get(name, none).most_common()),
        }
        for name, nids in pages_to.items()
    }


def said(note: Mapping[str, Any]) -> str:
    """Return what a note says beside its time, kind and policy; what is empty is left out."""
    rest = ((key, value) for key, value in note.items() if key not in ("t_ns", "kind", "policy"))
    return ", ".join(f"{key} {value}" for key, value in rest if value)
