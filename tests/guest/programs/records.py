"""What every program holds: records whose bytes say which they are, and how often each is asked for.

The first ``N_READ`` are read and never change; those after them are written over, again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

N_READ, N_WRITTEN = 24_000, 1_000
N_RECORDS = N_READ + N_WRITTEN
MARK = b"gpuscan-record-"
N_FILLERS = 120
"""A record is its mark, number and version, and a number of eight digits so often."""
FACTORS = (2_654_435_761, 40_503)
"""That number is a sum of record number and version by these, so no two pages are alike."""
N_AT_ONCE = 100
"""Records that are drawn for one request; those drawn twice are read once."""
N_WRITTEN_AT_ONCE = 10


@cache
def body(number: int, version: int = 0) -> bytes:
    """Return the bytes of a record; all are as long."""
    filler = (number * FACTORS[0] + version * FACTORS[1]) % 10**8
    return b"%s%06d-%06d-" % (MARK, number, version) + b"%08d" % filler * N_FILLERS


BODY_BYTES = len(body(0))


def lines(numbers: Iterable[int], version: int = 0) -> bytes:
    """Return records, one a line."""
    return b"".join(body(number, version) + b"\n" for number in numbers)


def written_by(write: int) -> list[int]:
    """Return the records that a write writes over; it gives them its own number, from 1, for a version."""
    first = (write - 1) * N_WRITTEN_AT_ONCE
    return [N_READ + (first + offset) % N_WRITTEN for offset in range(N_WRITTEN_AT_ONCE)]


def versions(n_writes: int) -> dict[int, int]:
    """Return the version of each written record after so many writes."""
    found = dict.fromkeys(range(N_READ, N_RECORDS), 0)
    for write in range(max(1, n_writes + 1 - N_WRITTEN // N_WRITTEN_AT_ONCE), n_writes + 1):
        found.update(dict.fromkeys(written_by(write), write))
    return found


def latest() -> list[float]:
    """Return how often each record is drawn, a share: Zipf's law, and the newest is drawn most.

    The distribution that the Yahoo Cloud Serving Benchmark calls "latest", with its constant of 0.99.
    """
    return _shares([1 / (N_READ - number) ** 0.99 for number in range(N_READ)])


def hot_range() -> list[float]:
    """Return how often each record is drawn, a share: an eighth in the middle takes 95 % of it."""
    n_hot = N_READ // 8
    first = (N_READ - n_hot) // 2
    hot, other = 0.95 / n_hot, 0.05 / (N_READ - n_hot)
    return [hot if first <= number < first + n_hot else other for number in range(N_READ)]


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def shares_of_reads(drawn: Sequence[float]) -> list[float]:
    """Return how often each record is read, of all reads, if a request reads what is drawn twice once."""
    return _shares([1 - (1 - share) ** N_AT_ONCE for share in drawn])
