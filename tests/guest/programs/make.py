"""Make on the host what the programs need beside their packages: ``python -m tests.guest.programs.make``.

Fails where none of them can be run: there would be nothing to test.
"""

from __future__ import annotations

import sys

from .catalogue import NAMES, load


def make() -> None:
    """Make what all need.

    Raises:
        SystemExit: none of them can be run here, with the reasons.
    """
    for name in NAMES:
        load(name).make()
    reasons = [load(name).missing() for name in NAMES]
    if all(reasons):
        sys.exit("\n".join(["no program can be run:", *map(str, reasons)]))


if __name__ == "__main__":
    make()
