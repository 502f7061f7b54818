"""How pghot counts accesses in its records, as posted and after v7: compiled, one access after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.records.formats import RecordFormat

NID_KNOWN = 1 << 27
"""PGHOT_NID_KNOWN of a precise record, after v7."""
NO_NID = -1
NOT_RECORDED, COUNTED, ASKS, COOLS = range(4)
"""What a report does: nothing; it is counted; its page is READY then; the page is not READY any more."""
_MS_PER_S = 1000


class Rules(NamedTuple):
    """The record format and the tunables."""

    ready_shift: int
    freq_shift: int
    freq_max: int
    time_shift: int
    time_max: int
    jiffies_shift: int
    nid_shift: int
    nid_max: int
    threshold: int
    window_ms: int
    hz: int

    @classmethod
    def of(cls, fmt: RecordFormat, threshold: int, window_ms: int, hz: int) -> Rules:
        """Return them; ``threshold`` accesses within ``window_ms`` make a page READY."""
        return cls(
            fmt.ready.shift,
            fmt.freq.shift,
            fmt.freq.max,
            fmt.time.shift,
            fmt.time.max,
            fmt.jiffies_shift,
            fmt.nid.shift,
            fmt.nid.max,
            threshold,
            window_ms,
            hz,
        )


class Records(NamedTuple):
    """What is kept of each page.

    Attributes:
        words: uint8[n_positions] or uint32[n_positions], its record.
        last_access: int64[n_positions], jiffies + 1 of the last access as it really was, 0: none.
        looked_fresh: bool[n_positions], TIME, which wraps around, made an old access look recent.
    """

    words: NDArray[Any]
    last_access: NDArray[np.int64]
    looked_fresh: NDArray[np.bool_]


@compiled
def _is_fresh(records: Records, at: int, jiffies: int, rules: Rules) -> bool:
    """Whether a record's last access is within the window, and note whether that is so since TIME wraps."""
    time = (jiffies >> rules.jiffies_shift) & rules.time_max
    then = (np.int64(records.words[at]) >> rules.time_shift) & rules.time_max
    age_jiffies = ((time - then) & rules.time_max) << rules.jiffies_shift
    fresh = age_jiffies * _MS_PER_S // rules.hz <= rules.window_ms
    before = records.last_access[at]
    records.last_access[at] = jiffies + 1
    true_ms = (jiffies + 1 - before) * _MS_PER_S // rules.hz if before > 0 else 0
    records.looked_fresh[at] = fresh and true_ms > rules.window_ms
    return bool(fresh)


@compiled
def count_as_posted(
    records: Records,
    rules: Rules,
    positions: NDArray[np.int64],
    targets: NDArray[np.int32],
    jiffies: NDArray[np.int64],
    does: NDArray[np.int8],
) -> int:
    """Count accesses: ``pghot_update_record()`` of v7.

    Args:
        records, rules: see there.
        positions, targets, jiffies: of the accesses.
        does: int8[n], NOT_RECORDED for those that are to be left out; becomes COUNTED or ASKS for others.

    Returns:
        How many ask.
    """
    n_ready = 0
    for i in range(len(positions)):
        if does[i] == NOT_RECORDED:
            continue
        at = positions[i]
        word = np.int64(records.words[at])
        fresh = _is_fresh(records, at, jiffies[i], rules)
        freq = 1
        if fresh:
            freq = min(int((word >> rules.freq_shift) & rules.freq_max) + 1, rules.freq_max)
        ready = ((word >> rules.ready_shift) & 1) | int(freq >= rules.threshold)
        time = (jiffies[i] >> rules.jiffies_shift) & rules.time_max
        new = (ready << rules.ready_shift) | (freq << rules.freq_shift) | (time << rules.time_shift)
        records.words[at] = new | ((np.int64(targets[i]) & rules.nid_max) << rules.nid_shift)
        does[i] = ASKS if ready else COUNTED
        n_ready += int(ready)
    return n_ready


@compiled
def count_reports(
    records: Records,
    rules: Rules,
    positions: NDArray[np.int64],
    nids: NDArray[np.int32],
    counts: NDArray[np.int64],
    jiffies: NDArray[np.int64],
    targets: NDArray[np.int32],
    does: NDArray[np.int8],
) -> tuple[int, int]:
    """Count accesses that are reported: ``pghot_update_record()`` after v7.

    Args:
        records, rules: see there.
        positions, nids, counts, jiffies: of the reports; the node is NO_NID where nobody knows it.
        targets: int32[n], what each asks for where the record does not say; becomes what it does ask for.
        does: int8[n], NOT_RECORDED for those that are to be left out; becomes COUNTED, ASKS or COOLS for
            others.

    Returns:
        How many ask, and how many end the request of a page.
    """
    n_ready = n_cooled = 0
    for i in range(len(positions)):
        if does[i] == NOT_RECORDED:
            continue
        at = positions[i]
        word = np.int64(records.words[at])
        fresh = _is_fresh(records, at, jiffies[i], rules)
        n_accesses = min(int(counts[i]), rules.freq_max)
        freq = n_accesses
        if fresh:
            freq = min(int((word >> rules.freq_shift) & rules.freq_max) + n_accesses, rules.freq_max)
        ready = int(freq >= rules.threshold)
        new: Any = np.int64(0)
        if rules.nid_max and nids[i] != NO_NID:
            new = ((np.int64(nids[i]) & rules.nid_max) << rules.nid_shift) | NID_KNOWN
        elif rules.nid_max and word & NID_KNOWN:
            new = word & ((rules.nid_max << rules.nid_shift) | NID_KNOWN)
            targets[i] = (word >> rules.nid_shift) & rules.nid_max
        time = (jiffies[i] >> rules.jiffies_shift) & rules.time_max
        new |= (ready << rules.ready_shift) | (freq << rules.freq_shift) | (time << rules.time_shift)
        records.words[at] = new
        if ready:
            does[i] = ASKS
            n_ready += 1
        elif (word >> rules.ready_shift) & 1:
            does[i] = COOLS
            n_cooled += 1
        else:
            does[i] = COUNTED
    return n_ready, n_cooled
