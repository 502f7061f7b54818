"""Where every request went. A request begins when READY goes 0 -> 1 and ends exactly once.

Counted in folios::

    requested = pending + in flight + migrated + superseded + dropped (by reason)

``pending`` is what is READY in the store; the ledger derives it from the other
numbers, and :meth:`Ledger.verify` compares it with a count of the records, and
``in flight`` with what the engine holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX, instance, text, whole
from gpuscan.base.arrow import ReadAsTable
from gpuscan.base.errors import RunFailedError
from gpuscan.kernels.api import Outcome
from gpuscan.store.contract import Counts

if TYPE_CHECKING:
    import pyarrow as pa

_REJECTIONS = tuple(outcome for outcome in Outcome if outcome >= Outcome.UNKNOWN_TARGET)


_FOLIOS = "ledger: a number of folios"


@dataclass(slots=True)
class Ledger(ReadAsTable):
    """Counts of folios.

    Attributes:
        requested: requests that began.
        in_flight: claimed, not decided yet (with a migrator, or backing off).
        migrated: moved.
        superseded: put back onto a page that had been requested again; the newer request stands.
        dropped: ended without a move, by reason.
        refreshed: marks on pages that were READY already; no request of their own.
        counted: recorded accesses that left the page below the threshold.
        rejected: marks that began no request, by reason (own node, ineligible, ...).
        released: times a claimed folio became READY again (after a refusal, or at the end).
    """

    requested: int = 0
    in_flight: int = 0
    migrated: int = 0
    superseded: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    refreshed: int = 0
    counted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    released: int = 0

    def __post_init__(self) -> None:
        for place in fields(self):
            value = getattr(self, place.name)
            if place.type == "int":
                setattr(self, place.name, whole(f"ledger: {place.name}", value))
            else:
                instance(f"ledger: {place.name}", value, Counter, "give a collections.Counter of reasons")

    @property
    def pending(self) -> int:
        """Requests that must be READY in the store now."""
        return self.requested - self.in_flight - self.migrated - self.superseded - self.dropped.total()

    def produced(self, counts: Counts) -> None:
        """Book the outcome of a ``request`` or ``record`` call."""
        instance("ledger: counts", counts, dict, "give what request() or record() returned")
        counts = {each: whole(f"ledger: counts of {each.name}", counts.get(each)) for each in Outcome}
        self.requested += counts[Outcome.ACCEPTED]
        self.refreshed += counts[Outcome.REFRESHED]
        self.counted += counts[Outcome.COUNTED]
        for outcome in _REJECTIONS:
            if counts[outcome]:
                self.rejected[outcome.name.lower()] += counts[outcome]

    def claimed(self, n_folios: int) -> None:
        """Book folios taken by a scan."""
        self.in_flight += whole(_FOLIOS, n_folios)

    def moved(self, n_folios: int) -> None:
        """Book claimed folios that were migrated."""
        n_folios = whole(_FOLIOS, n_folios)
        self.in_flight -= n_folios
        self.migrated += n_folios

    def ended(self, reason: str, n_folios: int) -> None:
        """Book claimed folios whose request ends without a move."""
        text("ledger: reason", reason)
        n_folios = whole(_FOLIOS, n_folios)
        if n_folios:
            self.in_flight -= n_folios
            self.dropped[reason] += n_folios

    def ended_pending(self, reason: str, n_folios: int) -> None:
        """Book pending requests that end without having been claimed."""
        text("ledger: reason", reason)
        n_folios = whole(_FOLIOS, n_folios)
        if n_folios:
            self.dropped[reason] += n_folios

    def put_back(self, n_restored: int, n_superseded: int) -> None:
        """Book claimed folios that were released."""
        n_restored, n_superseded = whole(_FOLIOS, n_restored), whole(_FOLIOS, n_superseded)
        self.in_flight -= n_restored + n_superseded
        self.released += n_restored
        self.superseded += n_superseded

    def verify(self, n_ready: int, n_held: int) -> None:
        """Prove conservation against the store.

        Args:
            n_ready: READY records counted in the store, at rest.
            n_held: claimed folios that somebody has: those that back off.

        Raises:
            RunFailedError: a request was lost or doubled.
        """
        n_ready, n_held = whole("ledger: n_ready", n_ready), whole("ledger: n_held", n_held)
        if (self.pending, self.in_flight) != (n_ready, n_held):
            raise RunFailedError(
                f"conservation broke: the ledger has {self.pending} pending requests and {self.in_flight} in "
                f"flight, but {n_ready} records are READY and {n_held} folios wait for a retry; this is "
                "a bug in gpuscan, report it with the workload and the seed"
            )

    def state(self) -> dict[str, Any]:
        """Return all numbers for :meth:`restore`; reasons keep their order."""
        return {
            place.name: list(value.items()) if isinstance(value, Counter) else value
            for place in fields(self)
            for value in (getattr(self, place.name),)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of.

        Raises:
            ArgumentError: it was taken of nothing like this.
        """
        found = checked.table(state, "the ledger", tuple(place.name for place in fields(self)))
        for place in fields(self):
            value = found[place.name]
            if isinstance(getattr(self, place.name), Counter):
                setattr(self, place.name, Counter(checked.counts(value, place.name)))
            else:
                setattr(self, place.name, checked.whole(value, 0, INT64_MAX, place.name))

    def to_arrow(self) -> pa.Table:
        """Return a row for each number: ``what`` (as in :meth:`as_dict`), ``reason`` (null where there is
        none) and ``n`` int64.
        """
        import pyarrow as pa

        rows = [
            (what, reason, n)
            for what, value in self.as_dict().items()
            for reason, n in (value.items() if isinstance(value, dict) else ((None, value),))
        ]
        whats, reasons, counts = zip(*rows, strict=True)
        return pa.table(
            {
                "what": pa.array(whats, pa.string()),
                "reason": pa.array(reasons, pa.string()),
                "n": pa.array(counts, pa.int64()),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers for a report, reasons sorted by count."""
        return {
            "requested": self.requested,
            "pending": self.pending,
            "in_flight": self.in_flight,
            "migrated": self.migrated,
            "superseded": self.superseded,
            "dropped": dict(self.dropped.most_common()),
            "refreshed": self.refreshed,
            "counted": self.counted,
            "rejected": dict(self.rejected.most_common()),
            "released": self.released,
        }
