"""Memory on a disk: zeros of a file that nobody has a name for, or one sentence and nothing."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crashes import in_child
from file_pages import forget, resident_pages
from gpuscan.base.errors import DeviceError, InputError, RunFailedError
from gpuscan.files import disk_memory as room
from gpuscan.files import owned, scratch
from gpuscan.files.disk_memory import disk_memory
from gpuscan.files.owned import MARK, opened


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
    found = os.fstat(memory._file.handle)
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
        (errno.EDQUOT, DeviceError, "the quota there is used up; have it raised, or give a directory on"),
        (errno.EFBIG, InputError, r"File too large; raise the limit of file sizes \(ulimit -f\)"),
        (errno.EMFILE, InputError, r"Too many open files; raise the limit of open files \(ulimit -n\)"),
        (errno.EIO, InputError, "Input/output error; its disk has an error"),
        (errno.EACCES, InputError, "Permission denied; give a directory that this process may write to"),
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


def test_addresses_may_be_limited(on_disk: Path) -> None:
    code = (
        "import resource, sys, pathlib\n"
        "from gpuscan.files.disk_memory import disk_memory\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (32 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try: disk_memory(pathlib.Path(sys.argv[1]), 48 << 20)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(on_disk)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "DeviceError 48 MiB of a file cannot be mapped (Cannot allocate memory); raise"
    )


def test_what_a_killed_process_left_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from gpuscan.files import scratch\n"
        "from gpuscan.files.owned import Temporary\n"
        "Temporary.remove = lambda self: os._exit(9)\n"
        "scratch._NEVER_NAMED = os.O_RDWR\n"
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


@pytest.fixture
def no_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file system answer as one without O_TMPFILE: EISDIR."""
    monkeypatch.setattr(scratch, "_NEVER_NAMED", os.O_RDWR)


@pytest.mark.usefixtures("no_nameless_files")
def test_a_file_that_had_a_name_for_a_moment(tmp_path: Path) -> None:
    before = handles()
    memory = disk_memory(tmp_path, 4096)
    assert list(tmp_path.iterdir()) == []
    found = os.fstat(memory._file.handle)
    assert (found.st_nlink, found.st_mode & 0o777) == (0, 0o600)
    memory.close()
    gc.collect()
    assert handles() == before


@pytest.mark.usefixtures("no_nameless_files")
def test_a_file_system_that_keeps_names_of_open_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client of NFS does: an open file gets another name, which goes when it is closed."""
    unlink, let_go = os.unlink, owned.let_go

    def renamed(name: str, *, dir_fd: int) -> None:
        if name == "memory":
            os.rename(name, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        elif name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        else:
            unlink(name, dir_fd=dir_fd)

    def closed(handle: int) -> None:
        name = str(Path(f"/proc/self/fd/{handle}").readlink())
        let_go(handle)
        if name.endswith(".nfs0001"):
            unlink(name)

    before = handles()
    monkeypatch.setattr(os, "unlink", renamed)
    monkeypatch.setattr(scratch, "let_go", closed)
    with pytest.raises(
        InputError, match=r"keeps names of open files, as NFS .*; give a directory on another"
    ):
        disk_memory(tmp_path, 4096)
    assert list(tmp_path.iterdir()) == []
    assert handles() == before


def test_an_interrupt_at_the_last_moment_closes_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a file that was closed may be another's a moment later."""
    closed: list[int] = []
    made: list[int] = []
    unnamed_file, let_go = scratch.unnamed_file, owned.let_go

    def noted(*given: Any) -> int:
        made.append(unnamed_file(*given))
        return made[0]

    def counted(handle: int) -> None:
        closed.append(handle)
        let_go(handle)

    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "unnamed_file", noted)
    monkeypatch.setattr(room, "let_go", counted)
    monkeypatch.setattr(os, "getpid", interrupt)  # the last thing that is asked
    with pytest.raises(KeyboardInterrupt):
        disk_memory(tmp_path, 4096)
    gc.collect()
    assert closed == made != []


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    memory = disk_memory(tmp_path, 4096)

    def use() -> None:
        with pytest.raises(
            RunFailedError, match=rf"those of process {os.getppid()}, .*; open a store in this"
        ):
            memory.check()

    assert in_child(use) == 0
    memory.check()
    memory.close()


@pytest.mark.parametrize("available_bytes", [4095, 4096])
def test_a_file_system_in_memory_is_weighed_against_memory(
    monkeypatch: pytest.MonkeyPatch, available_bytes: int
) -> None:
    place = Path("/dev/shm")
    with opened(place) as handle:
        assert room._file_system(handle) == "tmpfs"
    monkeypatch.setattr(room, "available_bytes", lambda: available_bytes)
    if available_bytes < 4096:
        with pytest.raises(
            DeviceError, match=r"4 KiB are needed in /dev/shm, which is memory \(tmpfs\), 4.*KiB"
        ):
            disk_memory(place, 4096)
    else:
        disk_memory(place, 4096).close()


@pytest.mark.parametrize("n_blocks", [0, 1])
def test_a_file_system_that_counts_no_blocks_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_blocks: int
) -> None:
    none_free = SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=n_blocks)
    monkeypatch.setattr(os, "fstatvfs", lambda _: none_free)
    if n_blocks:
        with pytest.raises(DeviceError, match="0 B are free; make room"):
            disk_memory(tmp_path, 4096)
    else:
        disk_memory(tmp_path, 4096).close()


@pytest.mark.parametrize("refuses", [False, True])
def test_nothing_is_copied_on_write_where_the_file_system_does_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    asked: list[tuple[int, int, int]] = []

    def ioctl(handle: int, request: int, flags: bytes) -> bytes:
        if refuses:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        asked.append((os.fstat(handle).st_size, request, struct.unpack("I", flags)[0]))
        return struct.pack("I", 0x80000)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    disk_memory(tmp_path, 4096).close()
    fs_ioc_getflags, fs_ioc_setflags, fs_nocow_fl = 0x80086601, 0x40086602, 0x00800000
    wanted = [(0, fs_ioc_getflags, 0), (0, fs_ioc_setflags, 0x80000 | fs_nocow_fl)]
    assert asked == ([] if refuses else wanted), "a file that has a block stays as it is"


def test_a_page_that_is_touched_brings_no_other(on_disk: Path) -> None:
    """The kernel reads ahead of an ordinary mapping: 128 KiB at a time."""
    n_pages = 4096
    memory = disk_memory(on_disk, n_pages * mmap.PAGESIZE)
    touched = np.sort(np.random.default_rng(3).choice(n_pages, 50, replace=False))
    for use in (1, 2):  # pages that were never written, and those that come back from the disk
        memory.array[touched * mmap.PAGESIZE] += use
        np.testing.assert_array_equal(np.flatnonzero(resident_pages(memory.array)), touched)
        forget(memory)
        if resident_pages(memory.array).any():
            pytest.skip("this file system keeps what it was told to forget")
    np.testing.assert_array_equal(memory.array[touched * mmap.PAGESIZE], 3)
    memory.close()
