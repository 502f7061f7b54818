"""Memory on a disk: zeros of a file that nobody has a name for, or one sentence and nothing."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from file_pages import forget, resident_pages
from gpuscan.base.errors import DeviceError, InputError
from gpuscan.files import disk_memory as room
from gpuscan.files.disk_memory import disk_memory
from gpuscan.files.owned import MARK


def handles() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_zeros_that_nobody_finds_and_that_are_gone_when_closed(tmp_path: Path) -> None:
    before = handles()
    memory = disk_memory(tmp_path, 3 << 20)
    assert memory.array.dtype == np.uint8
    assert memory.array.shape == (3 << 20,)
    assert memory.array.flags.writeable
    assert memory.array.ctypes.data % mmap.PAGESIZE == 0
    assert not memory.array.any()
    memory.array[12345] = 7
    memory.check()
    assert list(tmp_path.iterdir()) == []
    found = os.fstat(memory._handle)
    assert (found.st_nlink, found.st_mode & 0o777) == (0, 0o600)
    assert found.st_blocks * 512 >= 3 << 20, "a page without a block ends the process where the disk is full"
    view = memory.array[12000:13000]
    memory.close()
    memory.close()
    assert view[345] == 7, "who has a view has the memory"
    del view
    assert handles() == before


def test_who_forgets_to_close_leaves_nothing_open(tmp_path: Path) -> None:
    before = handles()
    memory = disk_memory(tmp_path, 4096)
    del memory
    gc.collect()
    assert handles() == before


def test_it_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PIECE_BYTES", 1 << 20)
    told: list[int] = []
    disk_memory(tmp_path, (5 << 19) + 1, told.append).close()
    assert told == [1 << 20, 1 << 20, (1 << 19) + 1]


def test_a_disk_without_room_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    before = handles()
    with pytest.raises(
        DeviceError, match=r"4 EiB are needed on the file system of .*, .* are free; make room"
    ):
        disk_memory(tmp_path, 1 << 62)
    assert list(tmp_path.iterdir()) == []
    assert handles() == before


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, DeviceError, "it filled up meanwhile; make room"),
        (errno.EDQUOT, DeviceError, "it filled up meanwhile; make room"),
        (errno.EFBIG, InputError, "File too large; give a directory"),
        (errno.EIO, InputError, "Input/output error; give a directory"),
    ],
)
def test_room_that_goes_while_it_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], says: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = handles()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(kind, match=says):
        disk_memory(tmp_path, 1 << 20)
    assert list(tmp_path.iterdir()) == []
    assert handles() == before


def test_ctrl_c_while_it_is_reserved_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    before = handles()
    with pytest.raises(KeyboardInterrupt):
        disk_memory(tmp_path, 1 << 20, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert handles() == before


def test_places_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("somebody's")
    for place in ("file", "nowhere"):
        with pytest.raises(InputError, match=f"no memory can be kept in .*{place}: N.*; give a directory"):
            disk_memory(tmp_path / place, 4096)
    assert (tmp_path / "file").read_text() == "somebody's"


def test_addresses_may_be_limited(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib\n"
        "from gpuscan.files.disk_memory import disk_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try: disk_memory(pathlib.Path(sys.argv[1]), 3 << 30)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "DeviceError 3 GiB of a file cannot be mapped (Cannot allocate memory); raise"
    )


def test_what_a_killed_process_left_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from gpuscan.files import scratch\n"
        "from gpuscan.files.owned import Temporary\n"
        "Temporary.remove = lambda self: os._exit(9)\n"
        "scratch.unnamed_file('memory', pathlib.Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert {path.name for path in left.iterdir()} == {MARK, "memory"}
    others = tmp_path / "gpuscan-memory-notes"
    others.mkdir()
    with pytest.warns(UserWarning, match="gpuscan-memory-notes .gpuscan did not make it"):
        disk_memory(tmp_path, 4096).close()
    assert list(tmp_path.iterdir()) == [others]


def test_a_page_that_is_touched_brings_no_other(tmp_path: Path) -> None:
    """The kernel reads ahead of an ordinary mapping: 128 KiB at a time."""
    n_pages = 4096
    memory = disk_memory(tmp_path, n_pages * mmap.PAGESIZE)
    touched = np.sort(np.random.default_rng(3).choice(n_pages, 50, replace=False))
    for use in (1, 2):  # pages that were never written, and those that come back from the disk
        memory.array[touched * mmap.PAGESIZE] += use
        np.testing.assert_array_equal(np.flatnonzero(resident_pages(memory.array)), touched)
        forget(memory)
        if resident_pages(memory.array).any():
            pytest.skip("this file system keeps what it was told to forget")
    np.testing.assert_array_equal(memory.array[touched * mmap.PAGESIZE], 3)
    memory.close()
