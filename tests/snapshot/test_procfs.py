"""Capturing: from files laid out like /proc and /sys, and from this machine where root runs the tests."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.linux.cgroups import MemoryCgroups
from gpuscan.records.page_flags import NO_PAGE
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot import procfs
from gpuscan.snapshot.cgroups import shares

N_PFNS = 3 * SECTION_PAGES
ZONEINFO = """\
Node 0, zone      DMA
  pages free     100
        min      3
        low      5
        high     7
        promo    9
        spanned  4095
        present  3998
        managed  3000
        protection: (0, 50, 50, 50, 50)
  start_pfn:           1
Node 0, zone    DMA32
  pages free     100
        min      30
        low      50
        high     70
        promo    90
        spanned  94208
        present  94208
        managed  90000
        protection: (0, 0, 0, 0, 0)
  start_pfn:           4096
Node 0, zone   Normal
  pages free     0
        min      0
        low      0
        high     0
        promo    0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0, 0)
Node 0, zone  Movable
  pages free     0
        min      0
        low      0
        high     0
        promo    0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0, 0)
Node 0, zone   Device
  pages free     0
        min      0
        low      0
        high     0
        promo    0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0, 0)
"""
IOMEM = f"""\
00001000-0009efff : System RAM
00100000-{N_PFNS * 4096 - 1:08x} : System RAM
"""


@pytest.fixture
def root(tmp_path):
    """Return the root of a machine of one node, 384 MiB and a hole."""
    flags = np.arange(N_PFNS, dtype=np.uint64) << np.uint64(1)
    files = {
        "proc/kpageflags": flags.tobytes(),
        "proc/kpagecount": (flags + np.uint64(1 << 31)).tobytes(),
        "proc/zoneinfo": ZONEINFO.encode(),
        "proc/iomem": IOMEM.encode(),
        "proc/sys/kernel/osrelease": b"6.18.0-test\n",
        "sys/devices/system/node/online": b"0\n",
        "sys/devices/system/node/node0/cpulist": b"0-3\n",
        "sys/devices/system/node/node0/distance": b"10\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_every_present_pfn_gets_its_own_words(root):
    captured = procfs.capture(root)
    page_map = captured.topology.page_map
    pfn = np.concatenate([np.arange(1, 159), np.arange(256, N_PFNS)])
    flat = page_map.flat_of_pfn(pfn)
    assert (captured.flags[flat] == pfn * 2).all()
    assert (captured.mapcounts[flat] == pfn * 2 + (1 << 31)).all()
    absent = np.ones(page_map.n_pages, dtype=np.bool_)
    absent[flat] = False
    assert absent.any()
    assert (captured.flags[absent] == NO_PAGE).all()
    assert (captured.mapcounts[absent] == 0).all()
    assert (captured.kernel_release, captured.hz, captured.lru_gen) == ("6.18.0-test", None, False)
    assert captured.notes == ()


def test_a_small_stretch_reads_the_same(root, monkeypatch):
    whole = procfs.capture(root)
    monkeypatch.setattr(procfs, "_STRETCH_PAGES", 1000)
    calls = []
    pieces = procfs.capture(root, lambda done, total: calls.append((done, total)))
    assert (pieces.flags == whole.flags).all()
    assert (pieces.mapcounts == whole.mapcounts).all()
    n_present = whole.topology.page_map.n_present_pages
    assert calls[-1] == (n_present, n_present)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_reads_that_come_short_are_continued(root, monkeypatch):
    whole = procfs.capture(root)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:4096]], at))
    assert (procfs.capture(root).flags == whole.flags).all()


def test_files_that_end_early_show_no_page(root):
    for name in ("kpageflags", "kpagecount"):
        path = root / "proc" / name
        path.write_bytes(path.read_bytes()[: 8 * (N_PFNS - 10)])
    captured = procfs.capture(root)
    assert (captured.flags[-10:] == NO_PAGE).all()
    assert (captured.mapcounts[-10:] == 0).all()
    assert captured.flags[-11] == (N_PFNS - 11) * 2
    assert captured.notes == ("10 present pages lie past the end of /proc/kpageflags, taken as no page",)


@pytest.mark.parametrize("n_bytes", [0, 8 * N_PFNS])
def test_masked_page_flags_are_no_machine_without_flags(root, n_bytes):
    """Container runtimes put /dev/null over the file; others show zeros."""
    (root / "proc/kpageflags").write_bytes(bytes(n_bytes))
    with pytest.raises(
        InputError, match=r"kpageflags shows no flag of any page: it is masked.*on the host itself"
    ):
        procfs.capture(root)


def test_mapcounts_saturate(root):
    path = root / "proc/kpagecount"
    counts = np.fromfile(path, dtype=np.uint64)
    counts[5000] = 1 << 40
    path.write_bytes(counts.tobytes())
    captured = procfs.capture(root)
    assert captured.mapcounts[captured.topology.page_map.flat_of_pfn(5000)] == 0xFFFF_FFFF


@pytest.mark.parametrize(("enabled", "on"), [("0x0007\n", True), ("0x0006\n", False), ("0x0000\n", False)])
def test_the_multi_generation_lru_is_its_main_switch(root, enabled, on):
    path = root / "sys/kernel/mm/lru_gen/enabled"
    path.parent.mkdir(parents=True)
    path.write_text(enabled)
    assert procfs.capture(root).lru_gen is on


@pytest.mark.parametrize("where", ["proc/config.gz", "boot/config-6.18.0-test"])
def test_hz_comes_from_the_kernel_configuration(root, where):
    config = b"CONFIG_HZ_250=y\nCONFIG_HZ=250\nCONFIG_NUMA=y\n"
    path = root / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(config) if path.suffix == ".gz" else config)
    assert procfs.capture(root).hz == 250


def test_without_root_it_says_what_to_do(root, monkeypatch):
    real_open = os.open

    def refuse(path, *args, **kwargs):
        if "kpageflags" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="to root only; run it with sudo") as caught:
        procfs.capture(root)
    assert caught.value.exit_code == 2


def test_a_kernel_without_page_flags_is_named(root):
    (root / "proc/kpagecount").unlink()
    with pytest.raises(InputError, match="CONFIG_PROC_PAGE_MONITOR"):
        procfs.capture(root)


def test_a_failing_read_is_one_sentence(root, monkeypatch):
    preadv = os.preadv

    def fail(fd, views, at):
        if at >= 8 * 256:
            raise OSError(5, "Input/output error")
        return preadv(fd, views, at)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(RunFailedError, match="kpageflags cannot be read at PFN 256: Input/output"):
        procfs.capture(root)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="page flags are shown to root only")
def test_this_machine():
    if not Path("/proc/kpageflags").exists():
        pytest.skip("this kernel has no CONFIG_PROC_PAGE_MONITOR")
    charges = Path("/proc/kpagecgroup").exists()
    captured = procfs.capture(with_cgroups=charges)
    frames = captured.frames()
    zones = captured.zone_pages(frames)
    # The pages of this very process are on an LRU list; most of what is managed is accounted for.
    assert sum(zone.pages["anon"] for zone in zones) > 1000
    assert sum(zone.pages["free"] for zone in zones) > 0
    assert captured.kernel_release == os.uname().release
    if charges:
        assert captured.cgroups is not None
        found = shares(captured.cgroups, frames)
        assert sum(share.folios for share in found) == np.count_nonzero(frames.eligible)
        own = next(
            (line for line in Path("/proc/self/cgroup").read_text().splitlines() if "memory" in line), ""
        )
        name = own.rpartition(":")[2]
        # Where the hierarchy is another one, or a namespace shows a part of it, its paths are others.
        assert (
            not own
            or name not in MemoryCgroups(Path("/")).path_of.values()
            or any(share.cgroup == name and share.pages > 1000 for share in found)
        )
