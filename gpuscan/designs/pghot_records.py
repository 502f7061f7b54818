"""How pghot counts accesses in its records, as posted and after v7: compiled, one access after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.kernels.cpu.atomics import prefetch
from gpuscan.records.formats import RecordFormat

NID_KNOWN = 1 << 27
"""PGHOT_NID_KNOWN of a precise record, after v7."""
NO_NID = -1
NOT_RECORDED, COUNTED, ASKS, COOLS = range(4)
"""What a report does: nothing; it is counted; its page is READY then; the page is not READY any more."""
AHEAD_OF_IT, DURING = 1, 2
"""When a walk meets a report: see :func:`meet_reports`."""
_MS_PER_S = 1000
_AHEAD = 16
"""How many reports before its own the lines of a page are asked for."""


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
        last_access: int32[n_positions], jiffies + 1 of the last access as it really was, 0: none.
        looked_fresh: bool[n_positions], TIME, which wraps around, made an old access look recent.
    """

    words: NDArray[Any]
    last_access: NDArray[np.int32]
    looked_fresh: NDArray[np.bool_]


@compiled
def _is_fresh(records: Records, at: int, jiffies: int, rules: Rules) -> bool:
    """Whether a record's last access is within the window, and note whether that is so since TIME wraps."""
    time = (jiffies >> rules.jiffies_shift) & rules.time_max
    then = (np.int64(records.words[at]) >> rules.time_shift) & rules.time_max
    age_jiffies = ((time - then) & rules.time_max) << rules.jiffies_shift
    fresh = age_jiffies * _MS_PER_S // rules.hz <= rules.window_ms
    before = np.int64(records.last_access[at])
    records.last_access[at] = jiffies + 1
    true_ms = (jiffies + 1 - before) * _MS_PER_S // rules.hz if before > 0 else 0
    records.looked_fresh[at] = fresh and true_ms > rules.window_ms
    return bool(fresh)


@compiled
def _record_as_posted(records: Records, rules: Rules, at: int, target: int, jiffies: int) -> int:
    """Count an access in a record: ``pghot_update_record()`` of v7; return what that does."""
    word = np.int64(records.words[at])
    fresh = _is_fresh(records, at, jiffies, rules)
    freq = 1
    if fresh:
        freq = min(int((word >> rules.freq_shift) & rules.freq_max) + 1, rules.freq_max)
    ready = ((word >> rules.ready_shift) & 1) | int(freq >= rules.threshold)
    time = (jiffies >> rules.jiffies_shift) & rules.time_max
    new = (ready << rules.ready_shift) | (freq << rules.freq_shift) | (time << rules.time_shift)
    records.words[at] = new | ((np.int64(target) & rules.nid_max) << rules.nid_shift)
    return ASKS if ready else COUNTED


@compiled
def _record_report(
    records: Records, rules: Rules, at: int, nid: int, n_accesses: int, jiffies: int, asked: int
) -> tuple[int, int]:
    """Count accesses in a record: ``pghot_update_record()`` after v7; return what that does, and the target
    that the record says, or else ``asked``."""
    word = np.int64(records.words[at])
    fresh = _is_fresh(records, at, jiffies, rules)
    freq = min(n_accesses, rules.freq_max)
    if fresh:
        freq = min(int((word >> rules.freq_shift) & rules.freq_max) + freq, rules.freq_max)
    ready = int(freq >= rules.threshold)
    new: Any = np.int64(0)
    target: Any = np.int64(asked)
    if rules.nid_max and nid != NO_NID:
        new = ((np.int64(nid) & rules.nid_max) << rules.nid_shift) | NID_KNOWN
    elif rules.nid_max and word & NID_KNOWN:
        new = word & ((rules.nid_max << rules.nid_shift) | NID_KNOWN)
        target = (word >> rules.nid_shift) & rules.nid_max
    time = (jiffies >> rules.jiffies_shift) & rules.time_max
    new |= (ready << rules.ready_shift) | (freq << rules.freq_shift) | (time << rules.time_shift)
    records.words[at] = new
    if ready:
        return ASKS, target
    return COOLS if (word >> rules.ready_shift) & 1 else COUNTED, target


class Reports(NamedTuple):
    """Accesses that are reported, in their order.

    Attributes:
        positions: int64[n], of their folios.
        nids: int32[n], the node that each names, NO_NID where nobody knows it.
        counts: int64[n], accesses of each; not looked at as posted.
        jiffies: int64[n], when.
        targets: int32[n], what each asks for where the record does not say; becomes what it does ask for.
        does: int8[n], NOT_RECORDED for those that are to be left out; becomes what each does.
    """

    positions: NDArray[np.int64]
    nids: NDArray[np.int32]
    counts: NDArray[np.int64]
    jiffies: NDArray[np.int64]
    targets: NDArray[np.int32]
    does: NDArray[np.int8]

    def part(self, which: NDArray[np.int64]) -> Reports:
        """Return some of them."""
        columns: list[Any] = [column[which] for column in self]
        return Reports(*columns)


@compiled
def _take(records: Records, rules: Rules, reports: Reports, i: int, as_posted: bool) -> None:
    """Count a report that can be recorded."""
    at, jiffies, target = reports.positions[i], reports.jiffies[i], int(reports.targets[i])
    if as_posted:
        reports.does[i] = _record_as_posted(records, rules, at, target, jiffies)
    else:
        n_accesses, nid = int(reports.counts[i]), int(reports.nids[i])
        did, target = _record_report(records, rules, at, nid, n_accesses, jiffies, target)
        reports.does[i] = did
        reports.targets[i] = target


@compiled
def count_reports(records: Records, rules: Rules, reports: Reports, as_posted: bool) -> None:
    """Count accesses that are reported; ``as_posted``: as v7 does, which takes one access a report."""
    n = len(reports.positions)
    for i in range(n):
        if i + _AHEAD < n and reports.does[i + _AHEAD] != NOT_RECORDED:
            prefetch(records.words, reports.positions[i + _AHEAD])
            prefetch(records.last_access, reports.positions[i + _AHEAD])
        if reports.does[i] != NOT_RECORDED:
            _take(records, rules, reports, i, as_posted)


class Sections(NamedTuple):
    """What a walk comes by, section after section.

    Attributes:
        hot: bool[n], its bit is set; becomes what it is when the walk is there.
        n_looks: int64[n], pages that a walk looks at which goes through it.
        ends: int64[n], the first report behind those of a section: they lie section after section, those of
            each in the order of their times.
    """

    hot: NDArray[np.bool_]
    n_looks: NDArray[np.int64]
    ends: NDArray[np.int64]


@compiled
def meet_reports(
    records: Records,
    rules: Rules,
    sections: Sections,
    reports: Reports,
    times_ns: NDArray[np.int64],
    n_before: NDArray[np.int64],
    start_ns: int,
    look_ns: float,
    as_posted: bool,  # compiled functions take arguments by place
    met: NDArray[np.int8],
) -> None:
    """Count the reports that a walk meets: see :mod:`gpuscan.designs.threads`.

    Args:
        records, rules, sections, reports, as_posted: see there.
        times_ns: int64[n], when each report comes.
        n_before: int64[n], pages of its section that the walk looks at before that of the report.
        start_ns, look_ns: when the walk begins, and what a look takes.
        met: int8[n], becomes AHEAD_OF_IT for those that come before the walk comes to their section, DURING
            for those that come before it comes to their page, and stays 0 for those that it does not meet.
    """
    n_looks, at = 0, 0
    for section in range(len(sections.hot)):
        end = sections.ends[section]
        while at < end and times_ns[at] - start_ns <= n_looks * look_ns:
            met[at] = AHEAD_OF_IT
            if reports.does[at] != NOT_RECORDED:
                _take(records, rules, reports, at, as_posted)
                sections.hot[section] |= reports.does[at] == ASKS
            at += 1
        if sections.hot[section]:
            for i in range(at, end):
                if times_ns[i] - start_ns - (n_looks + n_before[i]) * look_ns <= 0:
                    met[i] = DURING
                    if reports.does[i] != NOT_RECORDED:
                        _take(records, rules, reports, i, as_posted)
            n_looks += sections.n_looks[section]
        at = end
