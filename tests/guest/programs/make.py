"""Make on the host what the programs need beside their packages: ``python -m tests.guest.programs.make``."""

from __future__ import annotations

from .catalogue import NAMES, load

if __name__ == "__main__":
    for name in NAMES:
        load(name).make()
