"""Lists of numbers as the kernel writes those of nodes and CPUs (``%*pbl``): ``0-3,8``."""

from __future__ import annotations


def parse_list(text: str) -> list[int]:
    """Return the numbers of a list; none for an empty one.

    Raises:
        ValueError: a part is no number or range, or a range that goes down.
    """
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ValueError(f"{part} goes down; write {last}-{first}")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
