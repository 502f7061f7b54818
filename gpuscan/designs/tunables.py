"""What a design may be told: the kernel's own bounds of its tunables. What it refuses is refused here.

pghot's are those of include/linux/pghot.h and of the sysctl table and debugfs files of mm/pghot.c, as the
tree after "[PATCH v7 0/7] mm: Hot page tracking and promotion infrastructure" has them (those of the
threshold are the same in the debugfs files of earlier versions); kpromoted's those of the sysctl table of
its mm/pghot.c ("[RFC PATCH v2 0/8]"). Batch and pause of kmigrated (RFC v1) and of kpromoted are constants of
their code and have no bounds there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gpuscan.base.errors import InputError
from gpuscan.engine.policy import Policy
from gpuscan.records.formats import record_format

MIB = 1 << 20
_NS_PER_MS = 1_000_000
_MS_PER_S = 1000
_INT_MAX = (1 << 31) - 1
"""proc_dointvec_minmax() takes no more."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one value may be.

    Attributes:
        key: what a user sets.
        value: what was set, in ``unit``.
        least, most: inclusive.
        unit: with a space before it, or nothing.
        source: the kernel's name for the bounds.
    """

    key: str
    value: float
    least: int
    most: int
    unit: str
    source: str

    def check(self, design: str) -> None:
        """Refuse a value out of bounds.

        Raises:
            InputError: it is.
        """
        if not self.least <= self.value <= self.most:
            raise InputError(
                f"{design} takes a {self.key} from {self.least:,} to {self.most:,}{self.unit} "
                f"({self.source}), not {self.value:,g}{self.unit}; give one of these"
            )


def check_tunables(
    design: str, policy: Policy, *, sleep_ns: int | None = None, batch_folios: int | None = None
) -> None:
    """Refuse what the kernel refuses.

    Args:
        design: its name.
        policy: threshold, window, rate limit, record format and ``hz`` of it hold for a design.
        sleep_ns, batch_folios: of its thread; None: as published.

    Raises:
        InputError: a value is out of bounds.
    """
    if design not in ("section-flag", "hot-list"):
        return
    if _MS_PER_S % policy.hz:
        raise InputError(f"{design} with {policy.hz} jiffies a second (policy.hz); give a divisor of 1000")
    for bound in _bounds(design, policy, sleep_ns, batch_folios):
        bound.check(design)


def pghot_format(policy: Policy) -> Literal["pghot", "pghot-compact"]:
    """Return the record format of ``section-flag``: precise for ``pghot``, compact for anything else."""
    return "pghot" if policy.record_format == "pghot" else "pghot-compact"


def _bounds(design: str, policy: Policy, sleep_ns: int | None, batch_folios: int | None) -> Iterator[Bound]:
    rate, window_ms = policy.rate_limit_bytes_per_s / MIB, policy.window_ns / _NS_PER_MS
    if rate:
        yield Bound("policy.rate_limit", rate, 1, _INT_MAX, " MiB a second", "pghot_promote_rate_limit_MBps")
    if design == "hot-list":
        if window_ms:
            what = "pghot_promote_freq_window_ms"
            yield Bound("policy.window", window_ms, 1, _INT_MAX, " ms", what)
        return
    fmt = record_format(pghot_format(policy))
    mode = "precise mode" if fmt.has_nid else "compact mode"
    threshold = f"PGHOT_FREQ_MAX, {mode}"
    yield Bound("policy.freq_threshold", policy.freq_threshold, 1, fmt.freq.max, "", threshold)
    if window_ms:
        most = fmt.time.max << fmt.jiffies_shift
        yield Bound("policy.window", window_ms, 1000, most, " ms", f"PGHOT_FREQ_WINDOW_MAX, {mode}")
    if sleep_ns is not None:
        yield Bound("interval", sleep_ns / _NS_PER_MS, 50, 1000, " ms", "KMIGRATED_SLEEP_MS_MIN and _MAX")
    if batch_folios is not None:
        yield Bound("batch", batch_folios, 64, 1024, " folios", "KMIGRATED_BATCH_NR_MIN and _MAX")
