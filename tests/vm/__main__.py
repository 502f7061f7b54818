"""Run a command in a guest: ``python -m tests.vm [--limit 600] [--out DIR] [--kernel DIR] COMMAND...``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from .guest import Guest, GuestError
from .machine import Machine
from .parts import KERNEL_VARIABLE, PartsError, fetch, kernel_folder


def main() -> int:
    """Boot, run, copy the results, stop; return the command's status, or 1 when the guest itself failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="fetch the kernel if it is not there yet")
    parser.add_argument("--limit", type=float, default=600, help="seconds the command may take")
    parser.add_argument("--out", type=Path, help="where to keep what the command leaves in $GUEST_OUT")
    parser.add_argument(
        "--kernel",
        type=Path,
        default=kernel_folder(),
        metavar="DIR",
        help=f"boot the kernel of this folder, not the fetched one (default: ${KERNEL_VARIABLE})",
    )
    parser.add_argument("--systemd", action="store_true", help="systemd is the guest's first process")
    parser.add_argument(
        "--package", type=Path, metavar="DEB", help="a Debian package that can be installed in it"
    )
    parser.add_argument("--module", action="store_true", help="a node 4 of 256 MiB that can go offline")
    parser.add_argument("--kernel-log", action="store_true", help="show the guest's kernel log at the end")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    # Ended from outside, it still stops the guest and takes its files away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if options.fetch and options.kernel is None:
            sys.stderr.write(f"kernel {fetch().release}\n")
        if not options.command:
            return 0
        with Guest(
            Machine(module_mib=256 if options.module else 0),
            out=options.out,
            kernel=options.kernel,
            systemd=options.systemd,
            package=options.package,
        ) as guest:
            result = guest.run(options.command, limit_s=options.limit, stdout=_to(1), stderr=_to(2))
            if options.kernel_log:
                sys.stderr.write(guest.kernel_log())
            return result.status
    except (GuestError, PartsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _to(descriptor: int) -> Callable[[bytes], object]:
    return lambda part: os.write(descriptor, part)


if __name__ == "__main__":
    sys.exit(main())
