"""Memory cgroups of pages: from /proc/kpagecgroup to a snapshot, and what commands say of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuscan.live.capture  # noqa: F401 (takes the real capture() before a test replaces that)
from gpuscan.base.errors import ArgumentError, InputError, RunFailedError, SnapshotError
from gpuscan.cli.main import main
from gpuscan.linux import cgroups as linux_cgroups
from gpuscan.linux.cgroups import MemoryCgroups, is_in
from gpuscan.records.page_flags import Kpf, bits
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot import procfs
from gpuscan.snapshot.cgroups import CgroupShare, PageCgroups, hot_of, shares
from gpuscan.snapshot.snapshot import Snapshot
from machines import tiered

LRU, HEAD, TAIL = bits(Kpf.LRU), bits(Kpf.COMPOUND_HEAD), bits(Kpf.COMPOUND_TAIL)
HOT = bits(Kpf.LRU, Kpf.REFERENCED)
FAR = 2 * SECTION_PAGES
"""Where node 2, which is CXL memory, begins by flat index."""


def tree(root: Path, kind: str) -> Path:
    """Make a tree of cgroups as the kernel mounts it; return the top of that of memory."""
    base = root / "sys/fs/cgroup"
    top = base / {"v2": "", "v1": "memory", "hybrid": "unified"}[kind]
    (top / "jobs/one").mkdir(parents=True)
    (top / "jobs2").mkdir()
    if kind == "v2":
        (base / "memory").mkdir()  # a cgroup of that name
        (base / "memory/cgroup.procs").touch()
    if kind == "v1":
        (base / "cpu/jobs").mkdir(parents=True)
    (top / ("cgroup.procs" if kind == "v1" else "cgroup.controllers")).write_text("cpu memory\n")
    return top


@pytest.mark.parametrize("kind", ["v2", "v1", "hybrid"])
def test_cgroups_are_named_by_the_inode_numbers_of_the_memory_hierarchy(tmp_path: Path, kind: str) -> None:
    top = tree(tmp_path, kind)
    there = MemoryCgroups(tmp_path)
    assert {there.path_of[(top / path).stat().st_ino] for path in ("", "jobs", "jobs/one", "jobs2")} == {
        "/",
        "/jobs",
        "/jobs/one",
        "/jobs2",
    }
    assert there.name_of(top / "jobs/one") == "/jobs/one"
    assert there.name_of(Path(os.path.relpath(top / "jobs", tmp_path / "sys/fs/cgroup"))) == "/jobs"
    assert there.name_of(top) == "/"
    assert [there.name_of(Path(name)) for name in ("/", "/jobs", "/jobs/one")] == ["/", "/jobs", "/jobs/one"]
    for path, why in (
        (top / "none", "is no cgroup"),
        (Path("/none"), "is no cgroup"),
        (top / "jobs/../..", "below"),
    ):
        with pytest.raises(InputError, match=why):
            there.name_of(path)


def test_without_a_tree_nothing_is_named(tmp_path: Path) -> None:
    there = MemoryCgroups(tmp_path)
    assert there.path_of == {}
    with pytest.raises(InputError, match="has no memory cgroups; mount cgroup2"):
        there.name_of(Path("jobs"))


def test_what_is_below_another() -> None:
    assert [is_in(name, "/jobs") for name in ("/jobs", "/jobs/one", "/jobs2", "/", "none")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert is_in("/jobs", "/")
    assert not is_in("none", "/")
    assert not is_in("inode 4", "/")


def machine() -> Snapshot:
    """Return a machine with one huge page, some single ones and free memory; its cgroups are made up."""
    topology = tiered()
    n_pages = topology.page_map.n_pages
    flags = np.full(n_pages, bits(Kpf.BUDDY))
    flags[:3] = LRU, HOT, HOT
    flags[FAR : FAR + 4] = HOT
    flags[FAR + 16 : FAR + 32] = LRU | TAIL
    flags[FAR + 16] = HOT | HEAD
    of_page = np.zeros(n_pages, dtype=np.uint16)
    of_page[:3] = 1, 1, 2
    of_page[FAR : FAR + 4] = 1, 2, 2, 0
    of_page[FAR + 16] = 3  # none of its tails, as of older kernels
    of_page[FAR + 100] = 1  # free: what is said of it does not count
    counts = np.zeros(n_pages, dtype=np.uint32)
    names = ("none", "/", "/jobs", "/jobs/one")
    return Snapshot(
        topology,
        flags,
        counts,
        "6.18",
        250,
        False,
        "2026-01-01T00:00:00+00:00",
        (),
        PageCgroups(names, of_page),
    )


def test_folios_count_where_their_first_page_is_charged() -> None:
    there = machine()
    assert there.cgroups is not None
    assert shares(there.cgroups, there.frames()) == [
        CgroupShare("/jobs/one", 1, 16, 16),
        CgroupShare("/", 3, 3, 2),
        CgroupShare("/jobs", 3, 3, 3),
        CgroupShare("none", 1, 1, 1),
    ]


def test_only_the_pages_of_some_cgroups_stay_hot() -> None:
    there = machine()
    jobs = hot_of(there, lambda name: is_in(name, "/jobs"))
    assert np.flatnonzero(jobs.frames().hot).tolist() == [2, FAR + 1, FAR + 2, FAR + 16]
    assert (jobs.frames().eligible == there.frames().eligible).all()
    assert np.flatnonzero(there.frames().hot).tolist() == [1, 2, *range(FAR, FAR + 4), FAR + 16]
    with pytest.raises(SnapshotError, match="has no cgroups; capture it with --cgroups"):
        hot_of(replace(there, cgroups=None), bool)


def test_cgroups_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    there.write(tmp_path / "a.zarr")
    again = Snapshot.read(tmp_path / "a.zarr")
    assert there.cgroups is not None
    assert again.cgroups is not None
    assert again.cgroups.names == there.cgroups.names
    assert (again.cgroups.of_page == there.cgroups.of_page).all()
    root = tmp_path / "a.zarr/zarr.json"
    for change, why in (
        (["none", "/", "/jobs"], "a page is of cgroup 3, and there are 3"),
        (["/", "/jobs", "x", "y"], "are not 'none' and up to 65,535 others"),
        (["none", "/", "/", "x"], "each once"),
        ([], "are not 'none'"),
        (["none", 3], "cgroups"),
        ("none", "cgroups"),
    ):
        document = json.loads(root.read_text())
        document["attributes"]["cgroups"] = change
        root.write_text(json.dumps(document))
        with pytest.raises(SnapshotError, match=why):
            Snapshot.read(tmp_path / "a.zarr")


def test_what_does_not_fit_is_refused() -> None:
    there = machine()
    with pytest.raises(SnapshotError, match="cgroups of 3 pages do not fit"):
        replace(there, cgroups=PageCgroups(("none",), np.zeros(3, dtype=np.uint16)))
    with pytest.raises(ArgumentError, match="cgroups"):
        replace(there, cgroups=("none",))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="of_page"):
        PageCgroups(("none",), np.array([70_000]))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return the root of a machine of one node whose page flags say which cgroup each page is of."""
    from test_procfs import IOMEM, N_PFNS, ZONEINFO

    top = tree(tmp_path, "v2")
    (tmp_path / "proc").mkdir()
    words = np.zeros(N_PFNS, dtype=np.uint64)
    for pfn, path in ((5000, "jobs"), (5001, "jobs/one"), (N_PFNS - 1, "")):
        words[pfn] = (top / path).stat().st_ino
    words[5002] = 1 << 40
    contents: dict[str, Any] = {
        "proc/kpageflags": np.full(N_PFNS, HOT).tobytes(),
        "proc/kpagecount": np.ones(N_PFNS, dtype=np.uint64).tobytes(),
        "proc/kpagecgroup": words.tobytes(),
        "proc/zoneinfo": ZONEINFO.encode(),
        "proc/iomem": IOMEM.encode(),
        "sys/devices/system/node/online": b"0\n",
        "sys/devices/system/node/node0/cpulist": b"0-3\n",
        "sys/devices/system/node/node0/distance": b"10\n",
    }
    for name, content in contents.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tmp_path


def test_the_words_of_the_kernel(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert procfs.capture(files).cgroups is None
    monkeypatch.setattr(procfs, "_STRETCH_PAGES", 30_000)
    found = procfs.capture(files, with_cgroups=True)
    assert found.cgroups is not None
    flats = found.topology.page_map.flat_of_pfn(
        np.array([4999, 5000, 5001, 5002, 5003, 3 * SECTION_PAGES - 1])
    )
    assert [found.cgroups.names[of] for of in found.cgroups.of_page[flats].tolist()] == [
        "none",
        "/jobs",
        "/jobs/one",
        f"inode {1 << 40}",
        "none",
        "/",
    ]
    assert np.count_nonzero(found.cgroups.of_page) == 4


def test_names_of_any_bytes_are_read_back(files: Path) -> None:
    """Whoever a cgroup is delegated to may make others below it, by any name but for ``/`` and NUL."""
    path = files / "proc/kpagecgroup"
    words = np.frombuffer(path.read_bytes(), dtype=np.uint64).copy()
    for pfn, name in ((5003, b"\xff"), (5004, b"\xfe"), (5005, b"a\nb"), (5006, "\u00fc".encode())):
        made = Path(os.fsdecode(os.fsencode(files) + b"/sys/fs/cgroup/jobs/" + name))
        made.mkdir()
        words[pfn] = made.stat().st_ino
    path.write_bytes(words.tobytes())
    procfs.capture(files, with_cgroups=True).write(files / "kept.zarr")
    found = Snapshot.read(files / "kept.zarr")
    assert found.cgroups is not None
    flats = found.topology.page_map.flat_of_pfn(np.arange(5000, 5007))
    assert [found.cgroups.names[of] for of in found.cgroups.of_page[flats].tolist()] == [
        "/jobs",
        "/jobs/one",
        f"inode {1 << 40}",
        "/jobs/\ufffd",
        "/jobs/\ufffd",
        "/jobs/a\nb",
        "/jobs/\u00fc",
    ]


@pytest.mark.parametrize("name", ["/\udcff", "/" + 4096 * "a"])
def test_what_would_not_be_read_back_is_not_made(name: str) -> None:
    there = machine()
    with pytest.raises(ArgumentError, match="cgroups: names is"):
        PageCgroups(("none", name), np.zeros(1, dtype=np.uint16))
    with pytest.raises(ArgumentError, match="snapshot: notes is"):
        replace(there, notes=(name,))


def test_masked_cgroups_are_not_pages_of_none(files: Path) -> None:
    """As /dev/null, which container runtimes mount over what they hide; so are counts."""
    for content in (b"", (files / "proc/kpagecgroup").read_bytes()[: 8 * 5000]):
        (files / "proc/kpagecgroup").write_bytes(content)
        with pytest.raises(
            InputError,
            match=r"kpagecgroup shows no cgroup of any page: it is masked, .* cgroup_disable=memory",
        ):
            procfs.capture(files, with_cgroups=True)
    procfs.capture(files)
    (files / "proc/kpagecount").write_bytes(b"")
    with pytest.raises(InputError, match="kpagecount shows no mapping of any page: it is masked"):
        procfs.capture(files)


def test_more_cgroups_than_a_kernel_has_are_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "N_CGROUPS_MAX", 4)
    with pytest.raises(RunFailedError, match="kpagecgroup names more than 3 cgroups"):
        procfs.capture(files, with_cgroups=True)


def test_a_kernel_that_does_not_count_by_cgroup(files: Path) -> None:
    (files / "proc/kpagecgroup").unlink()
    with pytest.raises(
        InputError, match=r"kpagecgroup is not there: .*CONFIG_MEMCG.*; capture without cgroups"
    ):
        procfs.capture(files, with_cgroups=True)


def test_capture_scan_and_inspect_say_the_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def capture(progress: Any, *, with_cgroups: bool) -> Snapshot:
        asked.append(with_cgroups)
        return machine() if with_cgroups else replace(machine(), cgroups=None)

    def said(*argv: str) -> Any:
        assert main([*argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(procfs, "capture", capture)
    monkeypatch.setattr(linux_cgroups, "CGROUPS", tree(tmp_path, "v2").relative_to("/"))
    kept, chosen, plain = (str(tmp_path / f"{name}.zarr") for name in ("kept", "chosen", "plain"))
    sizes = {"/jobs/one": 16, "/": 3, "/jobs": 3, "none": 1}
    assert {
        share["cgroup"]: share["pages"] for share in said("capture", kept, "--cgroups")["cgroups"]
    } == sizes
    assert {share["cgroup"]: share["pages"] for share in said("inspect", kept)["cgroups"]} == sizes
    assert said("scan", kept, "--device", "reference")["cgroups"] == [
        {"cgroup": "/jobs/one", "pages": 16},
        {"cgroup": "/jobs", "pages": 2},
        {"cgroup": "/", "pages": 1},
        {"cgroup": "none", "pages": 1},
    ]
    document = said("capture", chosen, "--cgroup", "jobs")
    assert "cgroups" not in document
    assert document["notes"] == ["hot: only what is charged to the cgroup /jobs, or to one below it"]
    scanned = said("scan", chosen, "--device", "reference")
    assert [route["pages"] for route in scanned["routes"]] == [18]
    assert "cgroups" not in scanned
    assert b"/jobs/one" not in Path(chosen, "zarr.json").read_bytes()
    assert "cgroups" not in said("capture", plain)
    assert "cgroups" not in said("inspect", plain)
    assert asked == [True, True, False]
    assert main(["capture", kept, "--force", "--cgroups"]) == 0
    assert "/jobs/one       1     16  69.6%   16" in capsys.readouterr().out
    assert main(["scan", kept, "--device", "reference"]) == 0
    assert "80.0% of these pages, 16, are charged to the cgroup /jobs/one." in capsys.readouterr().out
    assert main(["capture", chosen, "--force", "--cgroup", "jobs", "--pid", "1"]) == 2
    assert "in one way only; give --pid or --cgroup" in capsys.readouterr().err
    assert main(["capture", chosen, "--force", "--cgroup", "none"]) == 2
    assert "none is no cgroup" in capsys.readouterr().err
    assert main(["capture", chosen, "--force", "--cgroup", "/jobs2"]) == 2
    assert "no page is charged to the cgroup /jobs2; give one that has memory" in capsys.readouterr().err
