"""``gpuscan capture``: what it prints, what it leaves, and how it fails."""

from __future__ import annotations

import errno
import json
import os

import pytest

import gpuscan.live.capture  # noqa: F401 (takes the real capture() before a test replaces that)
from gpuscan.cli.main import main
from gpuscan.snapshot import procfs
from gpuscan.snapshot.snapshot import Snapshot
from hosts import small_host


@pytest.fixture
def captured(monkeypatch):
    """Let capture find a captured machine."""
    host = small_host()

    def capture(progress, with_cgroups):
        n_pages = host.topology.page_map.n_present_pages
        progress(n_pages // 2, n_pages)
        progress(n_pages, n_pages)
        return host

    monkeypatch.setattr(procfs, "capture", capture)
    return host


def test_it_writes_a_snapshot_and_says_what_is_in_it(captured, tmp_path, capsys):
    assert main(["capture", str(tmp_path / "a.zarr")]) == 0
    shown = capsys.readouterr()
    row = next(line.split() for line in shown.out.splitlines() if "Normal" in line)
    zone = captured.zone_pages(captured.frames())[2]
    assert row[:3] == ["0", "Normal", f"{zone.present:,}"]
    assert f"{zone.pages['hot']:,}" in row
    assert "hot = REFERENCED or ACTIVE" in shown.out
    assert "1.15 M/1.15 M pages" in shown.err
    assert (Snapshot.read(tmp_path / "a.zarr").flags == captured.flags).all()


def test_json_is_one_document(captured, tmp_path, capsys):
    assert main(["capture", str(tmp_path / "a.zarr"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["kernel_release"] == "6.18"
    zones = captured.zone_pages(captured.frames())
    assert [zone["pages"] for zone in document["zones"]] == [zone.pages for zone in zones]


def test_an_existing_snapshot_stops_it_before_the_capture(captured, tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.zarr"
    assert main(["capture", str(path)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(
        procfs, "capture", lambda progress, with_cgroups: pytest.fail("it captured all the same")
    )
    assert main(["capture", str(path)]) == 2
    assert "holds an earlier result; give another place, or --force" in capsys.readouterr().err


def test_force_replaces_a_snapshot(captured, tmp_path):
    path = tmp_path / "a.zarr"
    for arguments in ([], ["--force"]):
        assert main(["capture", str(path), *arguments]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_without_root_it_is_one_sentence(tmp_path, capsys, monkeypatch):
    real_open = os.open

    def refuse(path, *args, **kwargs):
        if str(path) == "/proc/kpageflags":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert main(["capture", str(tmp_path / "a.zarr")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "run it with sudo" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(captured, tmp_path, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["capture", str(tmp_path / "a.zarr")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["capture"], ["compare", "--memory", "1GiB", "--out"], ["run", "--out"]])
def test_a_place_that_cannot_be_written_is_refused_at_once(command, capsys, monkeypatch):
    monkeypatch.setattr(
        procfs, "capture", lambda progress, with_cgroups: pytest.fail("it captured all the same")
    )
    assert main([*command, "/proc/nothing-goes-here"]) == 2
    assert "cannot write /proc/nothing-goes-here: No such file" in capsys.readouterr().err
