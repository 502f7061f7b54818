"""The unit file and a first configuration, written where systemd and administrators look for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from importlib.resources import files
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.base.program import PROGRAM
from gpuscan.files.writing import check_file, new_file
from gpuscan.service.rights import started_with

CONFIG = Path("etc/gpuscan/service.toml")
UNIT = Path("etc/systemd/system/gpuscan.service")
_SHIPPED = "gpuscan.service.shipped"
_RIGHTS = "@CAPABILITIES@"
"""In their place each says which capabilities the service is started with, and what for."""


def shipped(name: str) -> str:
    """Return the text of a file that comes with gpuscan, ``example.toml`` for one, its rights filled in."""
    text = files(_SHIPPED).joinpath(name).read_text(encoding="utf-8")
    if _RIGHTS not in text:
        return text
    said = _rights_of_a_unit() if name.endswith(".service") else _rights_of_a_container()
    return text.replace(_RIGHTS, said)


def _rights_of_a_unit() -> str:
    rights = started_with()
    reasons = "\n".join(f"# {name}: {why}." for name, why in rights.items())
    return f"{reasons}\nCapabilityBoundingSet={' '.join(rights)}"


def _rights_of_a_container() -> str:
    lines = (f"# {why}.\n- {name.removeprefix('CAP_')}" for name, why in started_with().items())
    return textwrap.indent("\n".join(lines), " " * 16)


def command() -> str:
    """Return how systemd is to start gpuscan: by its path, or by its interpreter's."""
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    return _quoted(found) if found else f"{_quoted(sys.executable)} -m {PROGRAM}"


def _quoted(path: str) -> str:
    # systemd.service(5): a percent sign and a dollar sign have a meaning in command lines.
    return shlex.quote(path).replace("%", "%%").replace("$", "$$")


def unit_text(config: Path, program: str = "") -> str:
    """Return the unit file for a configuration; ``program`` is where gpuscan will be, if not where it is."""
    text = shipped("gpuscan.service")
    return text.replace("@GPUSCAN@", program or command()).replace("@CONFIG@", _quoted(str(config)))


def install(root: Path = Path("/"), *, force: bool = False) -> list[Path]:
    """Write the unit and the example; a configuration that is there is never touched without ``force``.

    Args:
        root: below which /etc lies.
        force: replace what is there.

    Returns:
        The files that were written, of which one may have said the same: an installation that was broken off
        is gone on with.

    Raises:
        InputError: one is there that says something else, or its place cannot be written; then neither was.
        RunFailedError: the system refused it; a file is as it was, or whole.
    """
    config, unit = root / CONFIG, root / UNIT
    wanted = {config: shipped("example.toml"), unit: unit_text(Path("/") / CONFIG)}
    for path, text in wanted.items():
        if os.path.lexists(path) and not force and not _says(path, text):
            raise InputError(
                f"{path} is there; give --force to replace it, and what you wrote into it is lost"
            )
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent} cannot be made ({error.strerror}); use sudo") from error
        check_file(path)
    for path, text in wanted.items():
        with new_file(path) as file:
            os.fchmod(file.fileno(), 0o644)  # whatever root's umask is: there is no secret in it
            file.write(text.encode())
    return list(wanted)


def _says(path: Path, text: str) -> bool:
    """Whether a file is there and says that, and nothing else."""
    try:
        return not path.is_symlink() and path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
