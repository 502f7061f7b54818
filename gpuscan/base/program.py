"""What this program is called: as a command, as a package, and as the scan design that it is itself."""

from __future__ import annotations

from typing import Final

PROGRAM: Final = "gpuscan"
