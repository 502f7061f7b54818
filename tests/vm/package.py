"""A Debian package as the guest installs it: its library unpacked here, and a package of all else.

The guest has little memory and no disk. So /usr/lib/gpuscan, half a gigabyte, comes from the host, below an
overlay. The package that dpkg installs there is the same without it, its scripts and its unit among them.
dpkg takes the whole one, too: 6 minutes under emulation for what it is told to leave out (--path-exclude).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .parts import PartsError, cache_dir

LIBRARY = "usr/lib/gpuscan"
PACKAGE_VARIABLE = "GPUSCAN_GUEST_PACKAGE"
"""Environment variable of commands in the guest: the package's file, where there is one."""
_DEPENDS = ("python3", "libc6", "libstdc++6")
# As in tests/vm/guest.py, and for the path that the library has when it is installed.
_COMPILE = """
import sys
sys.path.insert(0, "/usr/lib/gpuscan")
from gpuscan import Store, resolve_topology
from gpuscan.live.pipeline import warm_up
warm_up(Store(resolve_topology("two-socket-cxl", 1 << 30), device="cpu", large_folios=True))
"""


class Prepared:
    """A folder of what the guest needs of a package; made once for each, and kept as long as this is open.

    It has ``package.deb`` without the library, ``usr`` with it, ``dpkg`` with a database in which what it
    depends on is installed, and ``compiled`` with what the unit finds in /var/cache/gpuscan. That is empty
    where this machine lets nobody mount anything, and then the guest compiles.

    Args:
        package: the file.
        numba: environment to compile in.

    Raises:
        PartsError: it is no package, or dpkg is not there.
    """

    def __init__(self, package: Path, numba: dict[str, str]) -> None:
        try:
            with package.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise PartsError(f"there is no package {package} ({error.strerror}): make deb") from error
        digest.update(Path(__file__).read_bytes())  # as it is divided here
        folder = cache_dir() / "package"
        folder.mkdir(exist_ok=True)
        self.folder = folder / digest.hexdigest()[:16]
        # One at a time makes and removes; a guest that runs holds a lock on the folder that it uses.
        making = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(making, fcntl.LOCK_EX)
            if not self.folder.exists():
                _remove_unused(folder)
                _make(package, self.folder, numba)
            self._used = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._used, fcntl.LOCK_SH)
        finally:
            os.close(making)

    def close(self) -> None:
        """Use it no longer."""
        os.close(self._used)


def _remove_unused(folder: Path) -> None:
    """Remove what nobody uses: half a gigabyte each."""
    for earlier in folder.iterdir():
        used = os.open(earlier, os.O_RDONLY)
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(earlier)
        except BlockingIOError:
            pass
        finally:
            os.close(used)


def _make(package: Path, done: Path, numba: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=done.parent, prefix="making-") as name:
        scratch = Path(name)
        made = scratch / "made"
        made.mkdir(mode=0o755)
        _divide(package, made, scratch / "whole")
        _make_database(made / "dpkg")
        _compile(made, numba)
        made.rename(done)


def _divide(package: Path, made: Path, whole: Path) -> None:
    _run("dpkg-deb", "-R", str(package), str(whole))
    (made / LIBRARY).parent.mkdir(parents=True)
    (whole / LIBRARY).rename(made / LIBRARY)
    _run("dpkg-deb", "--root-owner-group", "-Znone", "-b", str(whole), str(made / "package.deb"))


def _make_database(folder: Path) -> None:
    (folder / "info").mkdir(parents=True)
    (folder / "updates").mkdir()
    (folder / "available").touch()
    (folder / "status").write_text(_run("dpkg-query", "-s", *_DEPENDS))
    for row in _run("dpkg-query", "-f", "${binary:Package}\n", "-W", *_DEPENDS).split():
        (folder / "info" / f"{row}.list").touch()


def _compile(made: Path, numba: dict[str, str]) -> None:
    """Compile the kernels for the path that they will have: by an overlay that only the compiler sees."""
    place = made / "compiled"
    place.mkdir(mode=0o755)
    overlay = f"mount -t overlay package -o lowerdir={shlex.quote(f'{made}/usr')}:/usr /usr"
    script = f"{overlay} && exec /usr/bin/python3 -I -c {shlex.quote(_COMPILE)}"
    alone = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    environment = {**os.environ, **numba, "NUMBA_CACHE_DIR": str(place)}
    done = subprocess.run(
        [*alone, "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = done.stderr.strip()[-300:]
        sys.stderr.write(f"the guest will compile the package's kernels itself: {why}\n")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PartsError(f"a package needs a Debian here: there is no {command[0]}") from error
    if done.returncode:
        raise PartsError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
