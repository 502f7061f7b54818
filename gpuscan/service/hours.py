"""Hours of the day, by the minute."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """From a minute of the day up to another one, over midnight where that is the earlier.

    Attributes:
        from_min: the first minute of it, 0 to 1439.
        to_min: the first minute after it.
    """

    from_min: int
    to_min: int

    def has(self, minute: int) -> bool:
        """Whether a minute of the day is among them."""
        if self.from_min <= self.to_min:
            return self.from_min <= minute < self.to_min
        return minute >= self.from_min or minute < self.to_min


def parse_hours(text: str) -> Hours:
    """Return the hours in ``22:00-06:00``.

    Raises:
        ValueError: it says none.
    """
    match = _HOURS.fullmatch(text.strip())
    example = "write for example 22:00-06:00"
    if match is None:
        raise ValueError(f"{text!r} are no hours; {example}")
    hours = [int(hour) * 60 + int(minute) for hour, minute in (match.group(1, 2), match.group(3, 4))]
    if any(int(minute) > 59 for minute in match.group(2, 4)) or max(hours) > DAY_MIN:
        raise ValueError(f"{text!r} has a time that no clock shows; {example}")
    if hours[0] == hours[1]:
        raise ValueError(f"{text!r} is no time at all; {example}, or 00:00-24:00 for always")
    return Hours(hours[0] % DAY_MIN, hours[1] if hours[1] == DAY_MIN else hours[1] % DAY_MIN)


def are_quiet(hours: Iterable[Hours], minute: int) -> bool:
    """Whether a minute of the day is among any of them."""
    return any(each.has(minute) for each in hours)
