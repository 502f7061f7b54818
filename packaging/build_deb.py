"""Build a Debian package of this checkout: ``python packaging/build_deb.py DIRECTORY``.

What Debian does not have in these versions (numba, zarr, pyarrow, ...) comes along, below
/usr/lib/gpuscan, from the package index and for the Python that runs this: docs/notes/packaging.md.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from gpuscan.service.install import CONFIG, shipped, unit_text

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "packaging"
PROGRAM = "/usr/bin/gpuscan"
MAINTAINER = "The gpuscan developers <gpuscan@localhost>"
_OVERRIDES = """# All of it is said by 'gpuscan --help'.
gpuscan: no-manual-page
# There is no address yet.
gpuscan: bogus-mail-host *
gpuscan: bogus-mail-host-in-debian-changelog *
# The library is for one version of Python: its byte code needs no compiling when it is installed.
gpuscan: package-installs-python-pycache-dir *
"""
_ABOUT = """moves hot pages to near memory, and cold ones to far memory
 A scan engine for memory tiering on NUMA and CXL machines: it finds pages
 that are ready to migrate, in simulations, in snapshots and of running
 processes. The service moves pages by rules for as long as a machine runs.
 It is enabled, and starts once there is /etc/gpuscan/service.toml.
"""


def main() -> int:
    """Build it, and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the package goes")
    parser.add_argument(
        "--no-dependencies", action="store_true", help="gpuscan alone, to look at the package"
    )
    parser.add_argument("--compression", default="xz", choices=("gzip", "none", "xz"))
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir(mode=0o755)
        source = Path(scratch) / "source"
        _export(source)
        _fill(tree, source, with_dependencies=not arguments.no_dependencies)
        print(_pack(tree, arguments.directory, arguments.compression))
    return 0


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _export(source: Path) -> None:
    """Copy what git tracks, as it is now: pip builds in the tree, and packs an earlier build with it."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and (path.is_file() or path.is_symlink()):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, source / name, follow_symlinks=False)


def _fill(tree: Path, source: Path, *, with_dependencies: bool) -> None:
    library = tree / "usr/lib/gpuscan"
    wanted = [f"{source}[live]"] if with_dependencies else ["--no-deps", str(source)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(library), *wanted], check=True)
    for told in library.glob("gpuscan-*.dist-info/direct_url.json"):  # where it was built
        told.unlink()
    shutil.rmtree(library / "bin", ignore_errors=True)  # scripts of others; /usr/bin/gpuscan is ours
    _put(tree / PROGRAM.lstrip("/"), (HERE / "gpuscan").read_text(), 0o755)
    unit = unit_text(Path("/") / CONFIG, PROGRAM)
    _put(tree / "usr/lib/systemd/system/gpuscan.service", unit)
    condition = f"[Unit]\nConditionPathExists=/{CONFIG}\n"
    _put(tree / "usr/lib/systemd/system/gpuscan.service.d/package.conf", condition)
    documents = tree / "usr/share/doc/gpuscan"
    _put(documents / "examples/service.toml", shipped("example.toml"))
    _put(documents / "copyright", _copyright())
    _put(documents / "changelog.gz", gzip.compress(_changelog().encode(), 9, mtime=0))
    _put(tree / "usr/share/lintian/overrides/gpuscan", _OVERRIDES)
    (tree / "etc/gpuscan").mkdir(parents=True)
    _compile(tree, library)


def _compile(tree: Path, library: Path) -> None:
    """Put byte code beside the sources: the unit cannot, and without it each start reads all of them anew.

    Byte code holds while its source is as old as it says (PEP 552), so all files get the time that they
    will have in the package.
    """
    made_at = _made_at()
    for path in library.rglob("*.py"):
        os.utime(path, (made_at, made_at))
    compile_all = [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/", str(library)]
    subprocess.run(compile_all, check=True)


def _made_at() -> int:
    """Return when this was committed, so that the same tree makes the same package."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return int(os.environ.get("SOURCE_DATE_EPOCH") or shown.stdout.strip() or time.time())


def _changelog() -> str:
    made = format_datetime(datetime.fromtimestamp(_made_at(), UTC))
    said = "* What changed is in CHANGELOG.md of the source."
    return f"gpuscan ({_version()}) unstable; urgency=medium\n\n  {said}\n\n -- {MAINTAINER}  {made}\n"


def _copyright() -> str:
    year = datetime.fromtimestamp(_made_at(), UTC).year
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: gpuscan\n"
        "Comment: each package below /usr/lib/gpuscan has its own licence in its .dist-info directory.\n\n"
        f"Files: *\nCopyright: {year} the gpuscan developers\nLicense: Apache-2.0\n"
        " On Debian systems the licence is in /usr/share/common-licenses/Apache-2.0.\n"
    )


def _put(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def _pack(tree: Path, directory: Path, compression: str) -> Path:
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    major, minor = sys.version_info[:2]
    files = [path for path in tree.rglob("*") if path.is_file()]
    control = (
        f"Package: gpuscan\nVersion: {_version()}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n"
        f"Installed-Size: {sum(path.stat().st_size for path in files) // 1024}\n"
        f"Depends: python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1}), libc6, libstdc++6\n"
        "Recommends: systemd\n"
        f"Section: admin\nPriority: optional\nDescription: {_ABOUT}"
    )
    _put(tree / "DEBIAN/control", control)
    for script in ("postinst", "prerm", "postrm"):
        _put(tree / "DEBIAN" / script, (HERE / script).read_text(), 0o755)
    for path in tree.rglob("*"):  # whatever the umask is, and what pip has made of it
        if path.is_dir():
            path.chmod(0o755)
        elif path.is_file() and not path.is_relative_to(tree / "DEBIAN"):
            path.chmod(0o755 if path.parent == tree / "usr/bin" else 0o644)
    package = directory / f"gpuscan_{_version()}_{architecture}.deb"
    pack = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(package)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_made_at())}
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL, env=environment)
    return package


if __name__ == "__main__":
    sys.exit(main())
