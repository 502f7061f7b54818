"""DAMON's sysfs and its tracepoint.

Evidence: Documentation/admin-guide/mm/damon/usage.rst; mm/damon/sysfs.c, v6.12.
"""

from __future__ import annotations

import errno
import itertools
from dataclasses import dataclass

import numpy as np

from .world import BASE_PAGE, PFN_BITS, SPAN_PAGES, Proc, World

_MOST = 6


def _no(number: int, path: str) -> OSError:
    return OSError(number, errno.errorcode[number], path)


@dataclass
class Scheme:
    """A scheme as it was when its kdamond was switched on, or last told to commit.

    Attributes:
        pattern: least and most of size, accesses and age.
        memcg: inode of the cgroup whose memory it is for; None for all.
        n_bytes: that it moved.
        allowance_bytes: that it may move now; its quota adds to that.
    """

    action: str
    target_nid: int
    pattern: dict[str, tuple[int, int]]
    memcg: int | None
    quota_bytes: int
    quota_ns: int
    n_bytes: int = 0
    allowance_bytes: float = 0.0


class Kdamond:
    """One that is on."""

    schemes: list[Scheme]

    def __init__(
        self, world: World, pid: int, target: Proc | None, ranges: np.ndarray, every_ns: int
    ) -> None:
        self.on_ns = world.now_ns
        self.pid, self.target, self.ranges, self.every_ns = pid, target, ranges, every_ns
        self.start_ticks = world.now_ns // 10_000_000
        self.next_ns = world.now_ns + every_ns
        self.counts = np.zeros(len(ranges), dtype=np.int64)
        self.age = np.zeros(len(ranges), dtype=np.int64)

    def aggregate(self, world: World) -> None:
        counts = self._accesses(world)
        self.age = np.where(counts == self.counts, self.age + 1, 0)
        self.counts = counts
        for scheme in self.schemes:
            if scheme.action.startswith("migrate_"):
                self._migrate(world, scheme)

    def _migrate(self, world: World, scheme: Scheme) -> None:
        """Move pages of regions that fit, folio by folio; page by page here, as if regions were pages."""
        if scheme.pattern["sz"][0] > 1 << 40:
            return
        is_hot = scheme.pattern["nr_accesses"][0] > 0
        if not is_hot and (world.now_ns - self.on_ns) // self.every_ns < scheme.pattern["age"][0]:
            return
        most = world.now_ns if not scheme.quota_bytes else 0
        if scheme.quota_bytes:
            scheme.allowance_bytes = min(
                scheme.allowance_bytes + scheme.quota_bytes * self.every_ns / scheme.quota_ns,
                max(4096, scheme.quota_bytes),
            )
            most = int(scheme.allowance_bytes) // 4096
        for proc in world.running():
            if scheme.memcg is not None and world.cgroups[proc.cgroup] != scheme.memcg:
                continue
            for page in np.flatnonzero((proc.words != 0) & (proc.hot == is_hot)).tolist():
                address = int(proc.words[page] & PFN_BITS) << 12
                inside = (self.ranges[:, 0] <= address) & (address < self.ranges[:, 1])
                if most and inside.any() and world.free_pages(scheme.target_nid):
                    world.move(proc, page, scheme.target_nid)
                    world.moved_by_damon[scheme.memcg, is_hot] += 1
                    most -= 1
                    scheme.n_bytes += 4096
                    scheme.allowance_bytes -= 4096

    def _accesses(self, world: World) -> np.ndarray:
        if self.target is not None:
            hot = np.flatnonzero(self.target.hot & (self.target.words != 0)) + BASE_PAGE << 12
        else:
            frames = [proc.words[proc.hot & (proc.words != 0)] & PFN_BITS for proc in world.running()]
            hot = np.sort(np.concatenate([np.empty(0, np.uint64), *frames]).astype(np.int64)) << 12
        n = np.diff(np.searchsorted(hot, self.ranges), axis=1)[:, 0] if len(self.ranges) else np.empty(0)
        return np.where(n > 0, _MOST, 0).astype(np.int64)


class DamonFiles:
    """The tree below ``kdamonds``, and the trace instances."""

    def __init__(self, world: World, *, has_trace: bool) -> None:
        self._world = world
        self._has_trace = has_trace
        self.files: dict[str, str] = {"nr_kdamonds": "0"}
        self.on: dict[str, Kdamond] = {}
        self._have_run: set[str] = set()
        self._pids = itertools.count(50_000)
        self.actions = {"stat", "migrate_hot", "migrate_cold"}
        self.instances: dict[str, dict[str, str]] = {}
        self.text: dict[str, bytes] = {}

    def pass_time(self) -> None:
        """Let kdamonds end aggregations, and end with their processes."""
        for number, kdamond in list(self.on.items()):
            if self._world.now_ns < kdamond.next_ns:
                continue
            kdamond.next_ns = self._world.now_ns + kdamond.every_ns
            # damon_va_target_valid(): while the target is a zombie it goes on, and finds no access.
            target = kdamond.target
            if target is not None and self._world.processes.get(target.pid) is not target:
                del self.on[number]
                continue
            kdamond.aggregate(self._world)
            for name, instance in self.instances.items():
                if instance["tracing_on"] == "1" and instance["events/damon/damon_aggregated/enable"] == "1":
                    self.text[name] += self._said(kdamond)

    def _said(self, kdamond: Kdamond) -> bytes:
        n = len(kdamond.ranges)
        rows = zip(kdamond.ranges.tolist(), kdamond.counts.tolist(), kdamond.age.tolist(), strict=True)
        return "".join(
            f" kdamond.0-{kdamond.pid} [001] ..... 1.0: damon_aggregated: target_id=0 nr_regions={n} "
            f"{start}-{end}: {count} {age}\n"
            for (start, end), count, age in rows
        ).encode()

    def read(self, path: str) -> str:
        """Return the text of a file."""
        number, _, rest = path.partition("/")
        if rest in ("state", "pid") and f"{number}/state" in self.files:
            kdamond = self.on.get(number)
            return ("on" if kdamond else "off") if rest == "state" else str(kdamond.pid if kdamond else -1)
        if path not in self.files:
            raise _no(errno.ENOENT, path)
        return self.files[path]

    def write(self, path: str, value: str) -> None:
        """Write a file; writing a number makes as many directories."""
        if path not in self.files:
            raise _no(errno.ENOENT, path)
        number, _, rest = path.partition("/")
        if rest == "state":
            self._command(number, value)
            return
        if path == "nr_kdamonds":
            if self.on:
                raise _no(errno.EBUSY, path)
            self._have_run.clear()
        if number in self.on and rest.rpartition("/")[2] in ("nr_contexts", "nr_targets", "nr_regions"):
            # The kernel lets it happen, and forgets what the kdamond's next answer would be put into.
            self._world.broken.append(f"{path} is written while the kdamond runs")
        if self._is_refused(path, value):
            raise _no(errno.EINVAL, path)
        self.files[path] = value
        directory, _, name = path.rpartition("/")
        if name in _MAKES:
            below = f"{directory}/" if directory else ""
            self._remove_numbered(below)
            self.files |= {
                f"{below}{i}/{file}": text for i in range(int(value)) for file, text in _MAKES[name].items()
            }

    def _is_refused(self, path: str, value: str) -> bool:
        return (path.endswith("/action") and value not in self.actions) or (
            path.endswith("/nr_contexts") and value not in ("0", "1")
        )

    def _remove_numbered(self, below: str) -> None:
        n = len(below)
        self.files = {
            path: text
            for path, text in self.files.items()
            if not (path.startswith(below) and path[n : n + 1].isdigit())
        }

    def _command(self, number: str, value: str) -> None:
        kdamond = self.on.get(number)
        if value != "off" and self.files[f"{number}/contexts/nr_contexts"] != "1":
            raise _no(errno.EINVAL, number)
        if value == "on":
            self._turn_on(number)
        elif kdamond is None:
            # damon_stop() has another errno for one that has ended.
            has_ended = value == "off" and number in self._have_run
            raise _no(errno.EPERM if has_ended else errno.EINVAL, number)
        elif value == "off":
            del self.on[number]
        elif value == "commit":
            # damos_commit() keeps what was moved, and the target (mm/damon/core.c, v6.12).
            for scheme, new in zip(kdamond.schemes, self._schemes(number), strict=True):
                new.n_bytes, new.allowance_bytes = scheme.n_bytes, scheme.allowance_bytes
                new.target_nid = scheme.target_nid
                scheme.__dict__ |= new.__dict__
        elif value == "update_schemes_stats":
            for i, scheme in enumerate(kdamond.schemes):
                self.files[f"{number}/contexts/0/schemes/{i}/stats/sz_applied"] = str(scheme.n_bytes)
            self._world.now_ns += 100_000_000
        else:
            tried = f"{number}/contexts/0/schemes/0/tried_regions/"
            self._remove_numbered(tried)
            rows = np.column_stack([kdamond.ranges, kdamond.counts, kdamond.age]).tolist()
            for i, row in enumerate(rows):
                for name, text in zip(("start", "end", "nr_accesses", "age"), row, strict=True):
                    self.files[f"{tried}{i}/{name}"] = str(text)
            self._world.now_ns += 60_000_000

    def _turn_on(self, number: str) -> None:
        if number in self.on:
            raise _no(errno.EBUSY, number)
        context = f"{number}/contexts/0/"
        target = f"{context}targets/0/"
        proc = None
        if self.files[f"{context}operations"] == "vaddr":
            proc = self._world.processes.get(int(self.files[f"{target}pid_target"]))
            if proc is None:
                raise _no(errno.EINVAL, number)
        n = int(self.files[f"{target}regions/nr_regions"])
        edges = [
            [int(self.files[f"{target}regions/{i}/{end}"]) for end in ("start", "end")] for i in range(n)
        ] or [[BASE_PAGE << 12, BASE_PAGE + SPAN_PAGES << 12]]
        every_ns = int(self.files[f"{context}monitoring_attrs/intervals/aggr_us"]) * 1000
        kdamond = Kdamond(self._world, next(self._pids), proc, np.array(edges), every_ns)
        kdamond.schemes = self._schemes(number)
        self.on[number] = kdamond
        self._have_run.add(number)

    def _schemes(self, number: str) -> list[Scheme]:
        top = f"{number}/contexts/0/schemes/"
        return [self._scheme(f"{top}{i}/") for i in range(int(self.files[f"{top}nr_schemes"]))]

    def _scheme(self, place: str) -> Scheme:
        memcg = None
        if self.files[f"{place}filters/nr_filters"] == "1":
            what = f"{place}filters/0/"
            assert (self.files[f"{what}type"], self.files[f"{what}matching"]) == ("memcg", "N")
            path = self.files[f"{what}memcg_path"]
            if path not in self._world.cgroups:  # damon_sysfs_memcg_path_to_id()
                raise _no(errno.EINVAL, path)
            memcg = self._world.cgroups[path]
        pattern = {
            what: (
                int(self.files[f"{place}access_pattern/{what}/min"]),
                int(self.files[f"{place}access_pattern/{what}/max"]),
            )
            for what in _PATTERN
        }
        return Scheme(
            self.files[f"{place}action"],
            int(self.files[f"{place}target_nid"]),
            pattern,
            memcg,
            int(self.files[f"{place}quotas/bytes"]),
            max(1, int(self.files[f"{place}quotas/reset_interval_ms"])) * 1_000_000,
        )

    def make_instance(self, name: str) -> None:
        """Make a trace instance."""
        if not self._has_trace:
            raise _no(errno.ENOENT, name)
        if name in self.instances:
            raise _no(errno.EEXIST, name)
        self.instances[name] = {"tracing_on": "1", "events/damon/damon_aggregated/enable": "0"}
        self.text[name] = b""

    def remove_instance(self, name: str) -> None:
        """Remove one."""
        if name not in self.instances:
            raise _no(errno.ENOENT, name)
        del self.instances[name], self.text[name]


_ATTRIBUTES = (
    "intervals/sample_us",
    "intervals/aggr_us",
    "intervals/update_us",
    "nr_regions/min",
    "nr_regions/max",
)
_QUOTAS = ("bytes", "reset_interval_ms", "weights/nr_accesses_permil", "weights/age_permil")
_PATTERN = ("sz", "nr_accesses", "age")
_MAKES: dict[str, dict[str, str]] = {
    "nr_kdamonds": {"state": "off", "pid": "-1", "contexts/nr_contexts": "0"},
    "nr_contexts": {
        "avail_operations": "vaddr\npaddr\n",
        "operations": "vaddr",
        "targets/nr_targets": "0",
        "schemes/nr_schemes": "0",
        **{f"monitoring_attrs/{name}": "0" for name in _ATTRIBUTES},
    },
    "nr_targets": {"pid_target": "0", "regions/nr_regions": "0"},
    "nr_regions": {"start": "0", "end": "0"},
    "nr_filters": {"type": "anon", "matching": "N", "memcg_path": ""},
    "nr_schemes": {
        "action": "stat",
        "target_nid": "0",
        "filters/nr_filters": "0",
        "stats/sz_applied": "0",
        **{f"quotas/{name}": "0" for name in _QUOTAS},
        **{f"access_pattern/{what}/{end}": "0" for what in _PATTERN for end in ("min", "max")},
    },
}
