"""Print the shortest execution in which each planted fault does harm: ``python -m tests.model``."""

from __future__ import annotations

import sys

from .checker import check
from .faults import FAULTS

for fault in FAULTS:
    result = check(fault.build(), fault.order)
    lines = [
        f"{fault.name} ({fault.order.value})",
        *(f"  {line}" for line in result.trace),
        *result.violations,
    ]
    sys.stdout.write("\n".join(lines) + "\n\n")
