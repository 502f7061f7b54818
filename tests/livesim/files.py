"""What the files of /proc and /sys say (Documentation/filesystems/proc.rst, proc_pid_stat(5))."""

from __future__ import annotations

import errno

from gpuscan.linux import damon_state

from .damon import DamonFiles
from .own_moves import OwnMoves
from .world import BASE_PAGE, NIDS, PFN_BITS, SECTION, SOFT_DIRTY, Proc, World

KDAMONDS = f"/{damon_state.ADMIN}/"
INSTANCES = f"/{damon_state.TRACING}/instances/"
CGROUPS = "/sys/fs/cgroup"
CGROUP = f"{CGROUPS}/simulated"


class Files:
    """Texts by path."""

    def __init__(self, world: World, damon: DamonFiles, own: OwnMoves) -> None:
        self._world = world
        self._damon = damon
        self._own = own

    def is_file(self, path: str) -> bool:
        """Whether there is a file of cgroups."""
        cgroup, _, name = path.removeprefix(CGROUPS).rpartition("/")
        return path == f"{CGROUP}/cgroup.procs" or (
            name == "memory.events" and cgroup in self._world.cgroups and path.startswith(CGROUPS)
        )

    def read(self, path: str) -> str:
        """Return a file's text."""
        if path.startswith(KDAMONDS):
            return self._damon.read(path.removeprefix(KDAMONDS))
        if path in _CONSTANT:
            return _CONSTANT[path]
        if path[1:] in self._own.settings:
            return self._own.read(path[1:])
        if path == "/proc/vmstat":
            return self._own.vmstat()
        if path == "/proc/zoneinfo":
            told = self._told()
            return "".join(_zone(nid, self._world.free_pages(nid), nid in told) for nid in NIDS)
        if path == "/proc/meminfo":
            return f"MemTotal:       {len(self._told()) * SECTION * 4} kB\n"
        if path == f"{CGROUP}/cgroup.procs":
            members = (proc.pid for proc in self._world.processes.values() if proc.is_target)
            return "".join(f"{pid}\n" for pid in members)
        if path.startswith("/proc/"):
            pid, _, name = path.removeprefix("/proc/").partition("/")
            return self._of_process(int(pid), name, path)
        if path.startswith("/sys/devices/system/node/node"):
            nid = int(path.split("node")[-1].partition("/")[0])
            return f"nr_free_pages {self._world.free_pages(nid)}\nnr_zone_inactive_anon 7\n"
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def _told(self) -> list[int]:
        """Return the nodes that the machine's files say have memory."""
        gone = self._world.offline if self._world.hotplugs else ()
        return [nid for nid in NIDS if nid not in gone]

    def _of_process(self, pid: int, name: str, path: str) -> str:
        for kdamond in self._damon.on.values():
            if kdamond.pid == pid and name == "stat":
                return _stat(pid, "kdamond.0", "S", 0x208040, kdamond.start_ticks)
        proc = self._world.processes.get(pid)
        if proc is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if name == "stat":
            return _stat(pid, proc.command, "S" if proc.is_alive else "Z", 0x400000, proc.start_ticks)
        if name == "maps":
            return "".join(
                f"{BASE_PAGE + first << 12:x}-{BASE_PAGE + first + n << 12:x} rw-p 00000000 00:00 0 \n"
                for first, n in proc.mappings
            )
        if name == "status":
            return f"Name:\t{proc.command}\nTgid:\t{pid}\nUid:\t0\t0\t0\t0\nMems_allowed_list:\t{proc.mems}\n"
        if name == "cgroup":
            return f"0::{proc.cgroup}\n"
        if name == "statm":
            return f"512 {(proc.words != 0).sum()} 0 0 0 0 0\n"
        if name == "numa_maps":
            return "".join(_numa(self._world, proc, first, n) for first, n in proc.mappings)
        if name == f"task/{pid}/children":
            return " ".join(str(other.pid) for other in self._world.running() if other.parent is proc)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        if path.startswith(KDAMONDS):
            self._damon.write(path.removeprefix(KDAMONDS), text)
        elif path[1:] in self._own.settings:
            self._own.write(path[1:], text)
        elif path.startswith(INSTANCES):
            name, _, file = path.removeprefix(INSTANCES).partition("/")
            if file not in self._damon.instances.get(name, {}):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            self._damon.instances[name][file] = text
        elif path.endswith("/clear_refs"):
            proc = self._world.processes.get(int(path.split("/")[2]))
            if proc is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            if not proc.is_target:
                self._world.broken.append(f"{path} was written, of a process that nobody asked for")
            proc.words &= ~SOFT_DIRTY
        else:
            raise PermissionError(errno.EACCES, "Permission denied", path)


def _stat(pid: int, comm: str, state: str, flags: int, start: int) -> str:
    return f"{pid} ({comm}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 150 50 0 0 20 0 1 0 {start} 0 0\n"


def _numa(world: World, proc: Proc, first: int, n: int) -> str:
    words = proc.words[first : first + n]
    nids = ((words[words != 0] & PFN_BITS) // SECTION).tolist()
    there = "".join(f" N{nid}={nids.count(nid)}" for nid in NIDS if nid in nids)
    most = max(world.n_mapped[(words[words != 0] & PFN_BITS).astype(int)].tolist(), default=0)
    shared = f" mapmax={most}" if most > 1 else ""
    return (
        f"{BASE_PAGE + first << 12:x} default anon={len(nids)} dirty={len(nids)}{shared}{there} "
        "kernelpagesize_kB=4\n"
    )


def _zone(nid: int, free: int, is_populated: bool) -> str:
    """Return a zone, as zoneinfo_show_print() (mm/vmstat.c, v6.12) does one without memory, too."""
    if not is_populated:
        zeros = ("boost", "min", "low", "high", "promo", "spanned", "present", "managed", "cma")
        lines = "".join(f"        {name:8} 0\n" for name in zeros)
        return f"Node {nid}, zone   Normal\n  pages free     0\n{lines}        protection: (0, 0, 0, 0, 0)\n"
    return (
        f"Node {nid}, zone   Normal\n  pages free     {free}\n        boost    0\n        min      1\n"
        f"        low      2\n        high     3\n        promo    4\n        spanned  {SECTION}\n"
        f"        present  {SECTION}\n        managed  {SECTION}\n        cma      0\n"
        f"        protection: (0, 0, 0, 0, 0)\n  start_pfn:           {nid * SECTION}\n"
    )


_CONSTANT = {
    "/proc/self/status": "CapEff:\tffffffffffffffff\n",
    "/proc/sys/kernel/random/boot_id": "simulated-boot\n",
}
