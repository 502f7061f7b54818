"""What a guest is made of: the host's QEMU and static busybox, and a kernel, fetched once or one's own."""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("qemu-system-x86", "busybox-static")
INSTALL = "apt-get install --no-install-recommends " + " ".join(PACKAGES)
FETCH = "python -m tests.vm --fetch"
KERNEL_VARIABLE = "GPUSCAN_GUEST_KERNEL"
"""Environment variable: a folder with another kernel for the guest, the default of ``--kernel``."""

_MODULES = ("netfs", "9pnet", "9p", "9pnet_virtio")
"""In the order of their dependencies; virtio over PCI is built into Debian's kernels."""
_OPTIONAL = ("brd", "overlay")
"""A disk of memory, for what a test swaps out, and what a package is laid over /usr with; a kernel of one's
own may come without them."""

_KERNEL_PACKAGE = re.compile(r"^linux-image-(\d\S*)-amd64$", re.MULTILINE)
_VARIANTS = re.compile(r"cloud|rt")


class PartsError(Exception):
    """Something of the guest is not there; the message says what to do."""


@dataclass(frozen=True)
class Parts:
    """Paths of what a guest is made of, all there."""

    qemu: Path
    busybox: Path
    kernel: Path
    modules: tuple[Path, ...]

    @property
    def release(self) -> str:
        """The kernel's release, as uname would print it."""
        return self.kernel.name.removeprefix("vmlinuz-")


def cache_dir() -> Path:
    """Return where fetched kernels are kept, made if it is not there."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "gpuscan-guest"
    path.mkdir(parents=True, exist_ok=True)
    return path


def kernel_folder() -> Path | None:
    """Return the folder that the environment names, or None."""
    named = os.environ.get(KERNEL_VARIABLE)
    return Path(named) if named else None


def missing(folder: Path | None = None) -> str | None:
    """Return why no guest can be booted here and the command that changes it, or None; see :func:`find`."""
    try:
        find(folder)
    except PartsError as error:
        return str(error)
    return None


def find(folder: Path | None = None) -> Parts:
    """Return the parts, fetching nothing.

    Args:
        folder: with a kernel, ``vmlinuz-RELEASE``, and its modules, which are read where they are; by
            default the fetched one.

    Raises:
        PartsError: one of them is not there.
    """
    if platform.machine() != "x86_64":
        raise PartsError(f"the guest is an x86-64 machine, this one is {platform.machine()}")
    qemu, busybox = shutil.which("qemu-system-x86_64"), shutil.which("busybox")
    if qemu is None or busybox is None:
        raise PartsError(f"the guest needs {'QEMU' if qemu is None else 'busybox'}: {INSTALL}")
    if b"/ld-linux" in Path(busybox).read_bytes():
        raise PartsError(f"the guest starts without libraries, so its busybox must be static: {INSTALL}")
    if folder is None:
        kernels = sorted(cache_dir().glob("kernel/vmlinuz-*"))
        if not kernels:
            raise PartsError(f"the guest's kernel was not fetched yet (100 MB, once): {FETCH}")
        kernel = kernels[-1]
    else:
        kernel = _kernel_in(folder)
    modules = [kernel.parent / f"{name}.ko" for name in (*_MODULES, *_OPTIONAL)]
    return Parts(Path(qemu), Path(busybox), kernel, tuple(each for each in modules if each.is_file()))


def _kernel_in(folder: Path) -> Path:
    """Return the one kernel of a folder that has its modules, too."""
    kernels = sorted(folder.glob("vmlinuz-*"))
    absent = [name for name in (f"{module}.ko" for module in _MODULES) if not (folder / name).is_file()]
    if len(kernels) == 1 and not absent:
        return kernels[0]
    found = f"no {absent[0]}" if len(kernels) == 1 else f"{len(kernels) or 'no'} files vmlinuz-*"
    raise PartsError(
        f"{folder} is not the folder of a guest's kernel, it has {found}; give one with one vmlinuz-RELEASE "
        f"and {', '.join(f'{module}.ko' for module in _MODULES)}, not compressed"
    )


def fetch() -> Parts:
    """Return the parts after fetching the newest kernel of this Debian, unless one is in the cache.

    The package is unpacked, not installed. apt is given a configuration and lists of our own, so backports
    need not be enabled and nobody needs to be root.

    Raises:
        PartsError: this is no Debian, there is no network, or QEMU or busybox is missing.
    """
    wanted = ("vmlinuz-*", *(f"{name}.ko" for name in _OPTIONAL))
    if not all(any(cache_dir().glob(f"kernel/{each}")) for each in wanted):
        with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="fetching-") as name:
            _unpack(_download(Path(name)), Path(name))
    return find()


def _download(scratch: Path) -> Path:
    """Return the newest kernel's package, in ``scratch``; backports are asked first."""
    release = platform.freedesktop_os_release()
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or shutil.which("apt-get") is None:
        raise PartsError(f"the guest's kernel comes from Debian's packages, and this is {release.get('ID')}")
    archives = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {codename}").split()
    if not archives:
        raise PartsError(f"apt has no package lists of {codename}: apt-get update")
    source = scratch / "debian.sources"
    for needed in ("lists/partial", "cache/archives/partial"):
        (scratch / needed).mkdir(parents=True)
    private = [
        *("-o", f"Dir::Etc::SourceList={source}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"),
        # The user _apt, to whom root's downloads fall otherwise, cannot enter the scratch folder.
        *("-o", "APT::Sandbox::User="),
    ]
    said = ""
    for suite in (f"{codename}-backports", codename):
        source.write_text(f"Types: deb\nURIs: {archives[0]}\nSuites: {suite}\nComponents: main\n")
        try:
            _run("apt-get", *private, "update")
            offered = _run("apt-cache", *private, "pkgnames", "linux-image-")
        except PartsError as error:
            said = str(error)
            continue
        versions = [each for each in _KERNEL_PACKAGE.findall(offered) if not _VARIANTS.search(each)]
        if versions:
            newest = max(versions, key=_numbers)
            _run("apt-get", *private, "download", f"linux-image-{newest}-amd64", cwd=scratch)
            (package,) = scratch.glob("linux-image-*.deb")
            return package
    raise PartsError(f"no kernel of {codename} could be fetched: {said or 'no package of that name'}")


def _unpack(package: Path, scratch: Path) -> None:
    """Keep the kernel, its configuration and the modules that the guest loads; an earlier one goes."""
    root, kept = scratch / "root", scratch / "kernel"
    _run("dpkg", "-x", str(package), str(root))
    kept.mkdir()
    for name in (*_MODULES, *_OPTIONAL):
        # merged /usr or not, compressed or not: that changed between Debian releases
        (module,) = root.glob(f"**/kernel/**/{name}.ko*")
        content = module.read_bytes()
        (kept / f"{name}.ko").write_bytes(lzma.decompress(content) if module.suffix == ".xz" else content)
    for pattern in ("config-*", "vmlinuz-*"):
        (file,) = (root / "boot").glob(pattern)
        shutil.copy(file, kept)
    if (cache_dir() / "kernel").exists():
        (cache_dir() / "kernel").rename(scratch / "earlier")
    kept.rename(cache_dir() / "kernel")


def _numbers(version: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", version)]


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise PartsError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
