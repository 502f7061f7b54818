"""DAMON's sysfs as the kernel behaves, in a folder: directories appear when their number is written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from gpuscan.linux import damon_state
from gpuscan.linux.system import System

FIRST_PID = 4_000


class DamonKernel:
    """A tree with /sys, /proc and /run below ``root``. What is written goes through :meth:`write`.

    Attributes:
        written: (path below the kdamonds, value) in order.
        regions: (start, end, nr_accesses, age) that the next update reports, by kdamond.
        refuses: values that ``state`` does not take, with the errno.
    """

    def __init__(self, root: Path, monkeypatch, operations=("vaddr", "paddr")) -> None:
        self.root = root
        self.admin = root / damon_state.ADMIN
        self.operations = operations
        self.written: list[tuple[str, str]] = []
        self.regions: dict[int, list[tuple[int, int, int, int]]] = {}
        self.refuses: dict[str, int] = {}
        self._next_pid = FIRST_PID
        self._have_run: set[str] = set()
        self.admin.mkdir(parents=True)
        (self.admin / "nr_kdamonds").write_text("0\n")
        boot = root / "proc/sys/kernel/random"
        boot.mkdir(parents=True)
        (boot / "boot_id").write_text("this-boot\n")
        monkeypatch.setattr(damon_state, "write", self.write)
        # What a crash of the machine leaves is not asked here, and a disk takes longer than all the rest.
        monkeypatch.setattr(System, "fsync", lambda _system, _fd: None)

    def write(self, system: System, path: Path, value: int | str) -> None:
        name, value = str(path.relative_to(self.admin)), str(value)
        self.written.append((name, value))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if path.name == "state":
            self._command(path.parent, value)
            return
        if name == "nr_kdamonds" and any(map(self._is_on, self.admin.glob("[0-9]*"))):
            raise OSError(errno.EBUSY, "Device or resource busy")
        if path.name == "nr_contexts" and value not in ("0", "1"):
            raise OSError(errno.EINVAL, "Invalid argument")
        if path.name in ("nr_contexts", "nr_targets", "nr_regions"):
            # The kernel lets it happen, and forgets what the kdamond's next answer would be put into.
            assert not self._is_on(self.admin / name.partition("/")[0]), f"{name} of one that runs"
        if name == "nr_kdamonds":
            self._have_run.clear()
        path.write_text(value + "\n")
        makes = {
            "nr_kdamonds": self._kdamond,
            "nr_contexts": self._context,
            "nr_targets": self._target,
            "nr_regions": self._region,
            "nr_schemes": self._scheme,
        }
        if path.name in makes:
            for old in path.parent.glob("[0-9]*"):
                shutil.rmtree(old)
            for number in range(int(value)):
                makes[path.name](path.parent / str(number))

    @staticmethod
    def _is_on(kdamond: Path) -> bool:
        return (kdamond / "state").read_text() == "on\n"

    def kill_kdamond(self, number: int) -> None:
        """Let a kdamond end, as it does with its process."""
        kdamond = self.admin / str(number)
        (kdamond / "state").write_text("off\n")
        shutil.rmtree(self.root / "proc" / (kdamond / "pid").read_text().strip())
        (kdamond / "pid").write_text("-1\n")

    def _command(self, kdamond: Path, value: str) -> None:
        if value in self.refuses:
            raise OSError(self.refuses[value], "refused")
        # damon_sysfs_handle_cmd(), mm/damon/sysfs.c, v6.12
        if value != "off" and (kdamond / "contexts/nr_contexts").read_text() != "1\n":
            raise OSError(errno.EINVAL, "Invalid argument")
        if value == "on":
            if self._is_on(kdamond):
                raise OSError(errno.EBUSY, "Device or resource busy")
            self._check_regions(kdamond)
            self._have_run.add(kdamond.name)
            pid = self._next_pid
            self._next_pid += 1
            process = self.root / f"proc/{pid}"
            process.mkdir(parents=True)
            process.joinpath("stat").write_text(stat_line(pid, "kdamond.0", flags=0x208040, start=pid * 10))
            (kdamond / "state").write_text("on\n")
            (kdamond / "pid").write_text(f"{pid}\n")
        elif not self._is_on(kdamond):
            # damon_stop() has another errno for one that has ended.
            has_ended = value == "off" and kdamond.name in self._have_run
            raise OSError(errno.EPERM if has_ended else errno.EINVAL, "it is off")
        elif value == "off":
            self.kill_kdamond(int(kdamond.name))
        elif value == "update_schemes_tried_regions":
            tried = kdamond / "contexts/0/schemes/0/tried_regions"
            shutil.rmtree(tried)
            tried.mkdir()
            (tried / "total_bytes").write_text("0\n")
            for number, region in enumerate(self.regions.get(int(kdamond.name), [])):
                _files(
                    tried / str(number),
                    dict(zip(("start", "end", "nr_accesses", "age"), region, strict=True)),
                )

    def _check_regions(self, kdamond: Path) -> None:
        """Refuse regions that do not ascend: damon_sysfs_set_regions(), mm/damon/sysfs.c, v6.12."""
        for regions in kdamond.glob("contexts/0/targets/*/regions"):
            n = int((regions / "nr_regions").read_text())
            edges = [int((regions / f"{i}/{end}").read_text()) for i in range(n) for end in ("start", "end")]
            if edges != sorted(edges):
                raise OSError(errno.EINVAL, "Invalid argument")

    def _kdamond(self, directory: Path) -> None:
        _files(directory, {"state": "off", "pid": -1, "contexts/nr_contexts": 0})

    def _context(self, directory: Path) -> None:
        _files(
            directory,
            {
                "avail_operations": "\n".join(self.operations),
                "operations": "vaddr",  # damon_sysfs_contexts_add_dirs(), whatever the kernel was built with
                **{f"monitoring_attrs/intervals/{name}_us": 0 for name in ("sample", "aggr", "update")},
                "monitoring_attrs/nr_regions/min": 10,
                "monitoring_attrs/nr_regions/max": 1000,
                "targets/nr_targets": 0,
                "schemes/nr_schemes": 0,
            },
        )
        # Not a list of directories, so writing it must make none.
        assert not (directory / "monitoring_attrs/nr_regions/0").exists()

    def _target(self, directory: Path) -> None:
        _files(directory, {"pid_target": 0, "regions/nr_regions": 0})

    def _region(self, directory: Path) -> None:
        _files(directory, {"start": 0, "end": 0})

    def _scheme(self, directory: Path) -> None:
        patterns = ("sz", "nr_accesses", "age")
        _files(
            directory,
            {
                "action": "stat",
                "tried_regions/total_bytes": 0,
                **{
                    f"access_pattern/{pattern}/{bound}": 0 for pattern in patterns for bound in ("min", "max")
                },
            },
        )


def stat_line(pid: int, comm: str, *, flags: int = 0x400000, start: int = 1000, state: str = "S") -> str:
    """Return the text of /proc/PID/stat (proc_pid_stat(5))."""
    fields = [state, *["0"] * 5, str(flags), *["0"] * 4, "150", "50", *["0"] * 6, str(start), *["0"] * 30]
    return f"{pid} ({comm}) {' '.join(fields)}\n"


def _files(directory: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


class TraceKernel:
    """tracefs in a folder: making a directory below ``instances`` makes a trace instance."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.instances = root / damon_state.TRACING / "instances"
        self.instances.mkdir(parents=True)
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path, *args, **kwargs):
            mkdir(path, *args, **kwargs)
            if path.parent == self.instances:
                event = path / "events/damon/damon_aggregated"
                mkdir(event, parents=True)
                for file in (path / "tracing_on", path / "trace", event / "enable"):
                    file.write_text("0")
                os.mkfifo(path / "trace_pipe")

        def remove(path):
            shutil.rmtree(path) if path.parent == self.instances else rmdir(path)

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(Path, "rmdir", remove)

    def say(self, text: str) -> None:
        """Let the only instance's ``trace_pipe`` have a text; gpuscan has it open."""
        (instance,) = self.instances.iterdir()
        pipe = os.open(instance / "trace_pipe", os.O_WRONLY | os.O_NONBLOCK)
        os.write(pipe, text.encode())
        os.close(pipe)


def aggregation(pid: int, *regions: tuple[int, int, int, int], says: int | None = None) -> str:
    """Return what ``trace_pipe`` has of an aggregation: (start, end, nr_accesses, age) of each region."""
    return "".join(
        f"       kdamond.0-{pid:<7} [001] .....   19.144893: damon_aggregated: target_id=0 "
        f"nr_regions={says or len(regions)} {start}-{end}: {n} {age}\n"
        for start, end, n, age in regions
    )
