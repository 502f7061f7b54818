"""Compiled kernels come from places that nobody else can write to, and from no others."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cache import copied

from gpuscan.base import code_cache as codecache

STRANGER = 65534

PROBE = """
import numpy as np
from gpuscan.kernels.cpu.bitmaps import count_set_bits
assert count_set_bits.for_bits(8)(np.full(4, 3, dtype=np.uint64)) == 8
stats = count_set_bits.for_bits(8).stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


class Evil:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def poison(place: Path, mark: Path) -> int:
    """Put code into every index below a place, behind its version; return how many there were."""
    n = 0
    for index in place.rglob("*.nbi"):
        with index.open("rb") as file:
            pickle.load(file)
            version = index.read_bytes()[: file.tell()]
        index.write_bytes(version + pickle.dumps(Evil(mark)))
        n += 1
    return n


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with a package, below a directory that only we may enter."""
    assert not codecache.why_not_ours(tmp_path), "tests of who owns what need a place of ours"
    return copied(tmp_path / "package")


def probe(package: Path, **environment: str) -> tuple[str, str]:
    variables = {**os.environ, "PYTHONPATH": str(package), "NUMBA_CACHE_DIR": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=variables, cwd=package, text=True, capture_output=True, check=True
    )
    return done.stdout.strip(), done.stderr


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@as_root
def test_code_in_a_cache_that_was_a_strangers_does_not_run(package: Path, tmp_path: Path) -> None:
    cache, mark = tmp_path / "cache", tmp_path / "PWNED"
    assert probe(package, NUMBA_CACHE_DIR=str(cache))[0] == "0 1"
    assert probe(package, NUMBA_CACHE_DIR=str(cache)) == ("1 0", "")
    assert poison(cache, mark) > 0
    folders = [cache, *(folder for folder in cache.rglob("*") if folder.is_dir())]
    for folder in folders:
        os.chown(folder, STRANGER, STRANGER)
    found, said = probe(package, NUMBA_CACHE_DIR=str(cache))
    assert found == "0 1"
    assert not mark.exists()
    assert said.count("compiled in every process") == 1
    assert f"belongs to user {STRANGER}" in said
    # The same code in a place of ours is run: this is what would have happened.
    for folder in folders:
        os.chown(folder, 0, 0)
    probe_fails = pytest.raises(subprocess.CalledProcessError)
    with probe_fails:
        probe(package, NUMBA_CACHE_DIR=str(cache))
    assert mark.exists()


@as_root
def test_a_checkout_of_somebody_elses_has_no_cache_for_us(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = package / "gpuscan/kernels/cpu"
    monkeypatch.setattr(codecache, "ROOT_CACHE", tmp_path / "root")
    assert place(source) == (source / "__pycache__", "")
    os.chown(source / "__pycache__", STRANGER, STRANGER)
    found, why = place(source)
    assert found is not None
    assert found.parent == tmp_path / "root"
    assert found.stat().st_mode & 0o777 == 0o700
    os.chown(source / "__pycache__", 0, 0)
    os.chown(package / "gpuscan", STRANGER, STRANGER)
    assert place(source)[0] == found, "the stranger can rename what is below"
    (tmp_path / "root").chmod(0o777)
    found, why = place(source)
    assert found is None
    assert "others may write to" in why
    assert f"belongs to user {STRANGER}" in why


@as_root
def test_roots_cache_is_not_below_home(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(codecache, "ROOT_CACHE", tmp_path / "root")
    source = package / "gpuscan/kernels/cpu"
    os.chown(package, STRANGER, STRANGER)
    found, _ = place(source)
    assert found is not None
    assert found.is_relative_to(tmp_path / "root")
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER - 1)  # another user, with a HOME that is not his
    found, why = place(source)
    assert found is None
    assert f"belongs to user {STRANGER}" in why
    assert not list(home.iterdir()), "something was left in the HOME of another user"


def place(source: Path, asked: str = "") -> tuple[Path | None, str]:
    codecache.cache_place.cache_clear()
    return codecache.cache_place(source, asked)


def test_what_others_may_write_is_not_used(tmp_path: Path) -> None:
    source, asked = tmp_path / "source", tmp_path / "asked"
    found, why = place(source, str(asked))
    assert found is not None
    assert why == ""
    assert found.parent == asked
    for mode in (0o770, 0o707, 0o1777):
        found.chmod(mode)
        assert place(source, str(asked)) == (
            None,
            f"others may write to {found} (mode {mode:o})",
        )
    found.chmod(0o755)
    asked.chmod(0o777)
    assert place(source, str(asked))[0] is None, "a parent that anybody may write to"
    asked.chmod(0o1777)
    assert place(source, str(asked))[0] == found, "sticky, as /tmp: nobody else can rename what is ours"
    asked.chmod(0o755)
    index = found / "kernel.nbi"
    index.write_bytes(b"")
    index.chmod(0o666)
    assert place(source, str(asked)) == (None, f"others may write to {index}")
    index.unlink()
    index.symlink_to("/etc/hostname")
    assert place(source, str(asked)) == (None, f"{index} is not a file")
    index.unlink()
    if os.geteuid() == 0:
        index.write_bytes(b"")
        os.chown(index, STRANGER, STRANGER)
        assert place(source, str(asked)) == (None, f"{index} belongs to user {STRANGER}")
        index.unlink()
    assert place(source, str(asked))[0] == found


def test_a_link_is_followed_once_and_then_what_it_led_to_is_used(tmp_path: Path) -> None:
    open_to_all, ours = tmp_path / "open", tmp_path / "ours"
    open_to_all.mkdir()
    ours.mkdir(mode=0o700)
    open_to_all.chmod(0o1777)
    (open_to_all / "link").symlink_to(ours)
    found, _ = place(tmp_path / "source", str(open_to_all / "link"))
    assert found is not None
    assert found.parent == ours, "a link may lead elsewhere a moment later"


@as_root
def test_nothing_is_made_where_a_stranger_is_at_home(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    found, why = place(tmp_path / "source", str(theirs / "cache"))
    assert found is None
    assert f"{theirs} belongs to user {STRANGER}" in why
    assert not list(theirs.iterdir())


def test_locators_of_the_environment_are_not_followed(package: Path, tmp_path: Path) -> None:
    found, said = probe(package, NUMBA_CACHE_LOCATOR_CLASSES="InTreeCacheLocator")
    assert found == "0 1"
    assert said.count("NUMBA_CACHE_LOCATOR_CLASSES is set") == 1
    shutil.rmtree(package)
