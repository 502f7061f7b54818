"""DAMON's schemes that move pages: one kdamond for each node that pages leave, on physical memory.

``migrate_hot`` and ``migrate_cold`` are there since v6.11 (Documentation/admin-guide/mm/damon/usage.rst). A
scheme that runs is changed by a ``commit``. That keeps what is known of the regions, but leaves a scheme's
target as it was, and new schemes had neither filters nor a target at first (damos_commit() and
damon_commit_schemes(), mm/damon/core.c, v6.12.0). So each kdamond has as many schemes as it will ever need
from its start, idle ones among them, whose pattern no region fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import damon_state
from gpuscan.linux.damon import in_pieces
from gpuscan.linux.damon_taken import DamonUnavailableError, TakenDamon
from gpuscan.linux.system import HERE, System

SAMPLE_US = 10_000
AGGREGATION_US = 200_000
_UPDATE_US = 1_000_000
_MIN_REGIONS, _MAX_REGIONS = 400, 2_000
HOT_ACCESSES = AGGREGATION_US // SAMPLE_US // 2
"""Half of the looks of an aggregation find a hot region accessed. In the guest (docs/live.md) DAMON moved
nearly everything with less, and left a third of the hot set behind with all of them."""
_MOST = (1 << 32) - 1
_MOST_BYTES = (1 << 62) - 1
_QUOTA_MS = 1_000


@dataclass(frozen=True, slots=True)
class Scheme:
    """What one scheme does; its target stays what it was at the start.

    Attributes:
        target_nid: where pages go.
        is_hot: hot ones go, else cold ones.
        cgroup: whose memory, by the path of exactly that cgroup; "" for all memory; None: it is idle.
        cold_after_ns: how long no look must have found a cold region accessed.
        bytes_per_s: most that it moves; 0 without limit.
    """

    target_nid: int
    is_hot: bool
    cgroup: str | None = None
    cold_after_ns: int = 0
    bytes_per_s: int = 0


class MigratingDamon(TakenDamon):
    """DAMON's sysfs, taken to have pages moved.

    Args:
        system: whose DAMON it is.

    Raises:
        DamonUnavailableError: see :class:`gpuscan.linux.damon_taken.TakenDamon`; or it cannot move pages.
    """

    remedy = "let gpuscan move the pages"

    def __init__(self, system: System = HERE) -> None:
        self._migrates = True
        super().__init__("paddr", system)

    def _look_at(self, context: Path) -> None:
        try:
            self._write(context / "schemes/0/action", "migrate_hot")
        except DamonUnavailableError:
            self._migrates = False

    def _check_more(self) -> None:
        if not self._migrates:
            raise DamonUnavailableError(
                f"this kernel's DAMON moves no pages (it has no migrate_hot, which is there since v6.11); "
                f"{self.remedy}"
            )

    def start(
        self, physical: Sequence[Sequence[tuple[int, int]]], schemes: Sequence[Sequence[Scheme]]
    ) -> None:
        """Start one kdamond for each node; those started before are stopped.

        Args:
            physical: memory of each, ``[start, end)`` in bytes, ascending.
            schemes: of each.

        Raises:
            DamonUnavailableError: the kernel refuses; then none runs.
        """
        self._stop()
        try:
            self._claim(["paddr"] * len(physical))
            for number, ranges in enumerate(physical):
                self._configure(self._admin / str(number), ranges, schemes[number])
            for number in range(len(physical)):
                self._write(self._admin / str(number) / "state", "on")
            self._note_running(range(self._n))
        except BaseException:
            self._stop()
            raise

    def stop(self) -> None:
        """Stop the kdamonds; DAMON stays taken, and nothing is configured."""
        self._stop()

    def _configure(self, kdamond: Path, ranges: Sequence[tuple[int, int]], schemes: Sequence[Scheme]) -> None:
        write = self._write
        write(kdamond / "contexts/nr_contexts", 1)
        context = kdamond / "contexts/0"
        write(context / "operations", self._operations)
        attributes = context / "monitoring_attrs"
        write(attributes / "intervals/sample_us", SAMPLE_US)
        write(attributes / "intervals/aggr_us", AGGREGATION_US)
        write(attributes / "intervals/update_us", _UPDATE_US)
        write(attributes / "nr_regions/max", _MAX_REGIONS)
        write(attributes / "nr_regions/min", _MIN_REGIONS)
        write(context / "targets/nr_targets", 1)
        regions = context / "targets/0/regions"
        pieces = in_pieces(ranges, _MIN_REGIONS)
        write(regions / "nr_regions", len(pieces))
        for number, (start, end) in enumerate(pieces):
            write(regions / f"{number}/start", start)
            write(regions / f"{number}/end", end)
        write(context / "schemes/nr_schemes", len(schemes))
        for number, scheme in enumerate(schemes):
            self._configure_scheme(context / f"schemes/{number}", scheme)

    def _configure_scheme(self, place: Path, scheme: Scheme) -> None:
        write = self._write
        write(place / "action", "migrate_hot" if scheme.is_hot else "migrate_cold")
        write(place / "target_nid", scheme.target_nid)
        is_idle = scheme.cgroup is None
        least_age = -(-scheme.cold_after_ns // (AGGREGATION_US * 1_000))
        accesses = (HOT_ACCESSES, _MOST) if scheme.is_hot else (0, 0)
        for what, (least, most) in {
            "sz": (_MOST_BYTES if is_idle else PAGE_BYTES, _MOST_BYTES),
            "nr_accesses": accesses,
            "age": (0 if scheme.is_hot else least_age, _MOST),
        }.items():
            write(place / f"access_pattern/{what}/min", least)
            write(place / f"access_pattern/{what}/max", most)
        # At least a page: 0 is no limit.
        n_bytes = max(PAGE_BYTES, scheme.bytes_per_s * _QUOTA_MS // 1_000) if scheme.bytes_per_s else 0
        write(place / "quotas/bytes", n_bytes)
        write(place / "quotas/reset_interval_ms", _QUOTA_MS)
        write(place / "quotas/weights/nr_accesses_permil", 1_000 if scheme.is_hot else 500)
        write(place / "quotas/weights/age_permil", 0 if scheme.is_hot else 500)
        write(place / "filters/nr_filters", 1 if scheme.cgroup else 0)
        if scheme.cgroup:  # what does not match is passed over
            write(place / "filters/0/type", "memcg")
            write(place / "filters/0/memcg_path", scheme.cgroup)
            write(place / "filters/0/matching", "N")

    def commit(self, schemes: Sequence[Sequence[Scheme]]) -> None:
        """Change the schemes of the kdamonds, as many as there were at the start.

        Raises:
            DamonUnavailableError: the kernel refuses: a kdamond goes on with what it had.
        """
        for number, of_one in enumerate(schemes):
            kdamond = self._admin / str(number)
            for place, scheme in enumerate(of_one):
                self._configure_scheme(kdamond / f"contexts/0/schemes/{place}", scheme)
            self._write(kdamond / "state", "commit")

    def moved_bytes(self, n_schemes: Sequence[int]) -> list[list[int]]:
        """Return how much each scheme of each kdamond has moved since that started.

        The kernel takes up to an aggregation, and 100 ms, to say so (damon_sysfs_handle_cmd()).

        Args:
            n_schemes: of each kdamond.

        Raises:
            DamonUnavailableError: it does not say, or a kdamond is off.
        """
        found = []
        for number, n in enumerate(n_schemes):
            kdamond = self._admin / str(number)
            self._write(kdamond / "state", "update_schemes_stats")
            stats = (kdamond / f"contexts/0/schemes/{place}/stats/sz_applied" for place in range(n))
            found.append([int(self._read(path)) for path in stats])
        return found

    def _read(self, path: Path) -> str:
        try:
            return damon_state.read(self._system, path)
        except OSError as error:
            raise DamonUnavailableError(f"{path} cannot be read ({error.strerror}); {self.remedy}") from error

    @property
    def n_kdamonds(self) -> int:
        """How many kdamonds were started."""
        return self._n
