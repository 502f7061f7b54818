"""The Debian package: built without what comes from the index, unpacked, installed in a directory, purged."""

from __future__ import annotations

import fcntl
import marshal
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gpuscan.service.rights import started_with

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here"),
]


def said(*command: object, status: int = 0) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deb")
    build = [sys.executable, ROOT / "packaging/build_deb.py", directory]
    built = said(*build, "--no-dependencies", "--compression", "gzip")
    return Path(built.strip().splitlines()[-1])


def test_what_is_in_it_is_roots_and_nobody_else_may_write_it(package: Path) -> None:
    rows = [line.split() for line in said("dpkg-deb", "-c", package).splitlines()]
    names = {row[5] for row in rows}
    assert {row[1] for row in rows} == {"root/root"}
    assert {row[0] for row in rows} <= {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}
    assert {"./usr/bin/gpuscan", "./usr/lib/systemd/system/gpuscan.service"} <= names
    assert "./etc/gpuscan/service.toml" not in names  # the administrator's, so no upgrade touches it
    assert "./usr/lib/gpuscan/gpuscan/kernels/reference.py" in names
    assert not any("direct_url" in name for name in names)
    assert not any("/tests/" in name for name in names)


def test_byte_code_comes_along_and_is_that_of_its_sources(package: Path, tmp_path: Path) -> None:
    """Else each start reads all sources anew: the unit may not write beside them."""
    said("dpkg-deb", "-x", package, tmp_path)
    for name in ("gpuscan/cli/main", "gpuscan/service/session"):
        source = tmp_path / f"usr/lib/gpuscan/{name}.py"
        code = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        # Bytes 4 to 12: no hash, and the time of the source (PEP 552).
        assert struct.unpack("<II", code.read_bytes()[4:12]) == (0, int(source.stat().st_mtime))
        assert marshal.loads(code.read_bytes()[16:]).co_filename == f"/usr/lib/gpuscan/{name}.py"


def test_what_was_unpacked_runs_and_its_unit_has_the_rights(package: Path, tmp_path: Path) -> None:
    said("dpkg-deb", "-x", package, tmp_path)
    program = tmp_path / "usr/bin/gpuscan"
    assert program.read_text().startswith("#!/usr/bin/python3 -I\n")
    example = tmp_path / "usr/share/doc/gpuscan/examples/service.toml"
    # Its dependencies are this interpreter's: the package was built without them.
    assert "makes sense: 2 rules" in said(sys.executable, "-I", program, "service", example, "--check")
    (tmp_path / "usr/lib/gpuscan/gpuscan/cli/main.py").write_text("def main(): return 7\n")
    said(sys.executable, "-I", program, status=7)  # and it is its own gpuscan that ran
    unit = (tmp_path / "usr/lib/systemd/system/gpuscan.service").read_text()
    assert "\nExecStart=/usr/bin/gpuscan service /etc/gpuscan/service.toml\n" in unit
    assert f"\nCapabilityBoundingSet={' '.join(started_with())}\n" in unit
    drop_in = (tmp_path / "usr/lib/systemd/system/gpuscan.service.d/package.conf").read_text()
    assert "ConditionPathExists=/etc/gpuscan/service.toml" in drop_in


def test_installed_upgraded_removed_and_purged(package: Path, tmp_path: Path) -> None:
    """In a directory that is a machine's root to dpkg; no script leaves it."""
    for name in ("etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("status", "available"):
        (tmp_path / "var/lib/dpkg" / name).touch()
    dpkg = ["dpkg", f"--root={tmp_path}", "--force-script-chrootless", "--force-depends", "--force-not-root"]
    said(*dpkg, "-i", package)
    enabled = tmp_path / "etc/systemd/system/multi-user.target.wants/gpuscan.service"
    assert enabled.is_symlink()
    config = tmp_path / "etc/gpuscan/service.toml"
    config.write_text("# mine\n")
    (tmp_path / "var/lib/gpuscan").mkdir()
    (tmp_path / "var/lib/gpuscan/history.sqlite").touch()
    said(*dpkg, "-i", package)  # an upgrade
    assert config.read_text() == "# mine\n"
    compiled = tmp_path / "usr/lib/gpuscan/gpuscan/__pycache__"
    assert compiled.is_dir()
    (compiled / "x.nbi").touch()
    said(*dpkg, "-r", "gpuscan")
    assert not (tmp_path / "usr/lib/gpuscan").exists()
    assert config.read_text() == "# mine\n"
    assert (tmp_path / "var/lib/gpuscan/history.sqlite").exists()
    assert not (tmp_path / "usr/bin/gpuscan").exists()
    said(*dpkg, "-P", "gpuscan")
    left = [path for path in tmp_path.rglob("*gpuscan*") if not path.is_relative_to(tmp_path / "var/log")]
    assert left == []


def test_a_purge_spares_what_a_container_uses(tmp_path: Path) -> None:
    (tmp_path / "var/lib/gpuscan").mkdir(parents=True)
    (tmp_path / "run/gpuscan").mkdir(parents=True)
    purge = ["env", f"DPKG_ROOT={tmp_path}", "PATH=/usr/bin:/bin", "sh", ROOT / "packaging/postrm", "purge"]
    with (tmp_path / "run/gpuscan/control.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said(*purge)
        assert (tmp_path / "var/lib/gpuscan").exists()
    said(*purge)
    assert not (tmp_path / "var/lib/gpuscan").exists()
    assert (tmp_path / "run/gpuscan").exists()


@pytest.mark.skipif(shutil.which("lintian") is None, reason="no lintian here")
def test_lintian_finds_nothing(package: Path) -> None:
    found = said("lintian", "--allow-root", "--fail-on", "error,warning", package)
    assert not re.findall(r"^[EW]: ", found, re.MULTILINE)
