"""``python -m tests.livesim SEED``: replay a seed, shrink it if it fails, and print what happened.

``python -m tests.livesim FIRST LAST`` runs many and prints those that fail.
"""

from __future__ import annotations

import sys

from .run import run, shrink
from .scenario import scenario


def main(arguments: list[str]) -> int:
    """Run what was asked for; return the exit code."""
    first, last = int(arguments[0]), int(arguments[-1])
    if first == last:
        one = scenario(first)
        if run(one).broken:
            one = shrink(one, lambda fewer: bool(run(fewer).broken))
        result = run(one, is_logging=True)
        sys.stdout.write("\n".join([*result.log, str(one), str(result), ""]))
        return bool(result.broken)
    failed = [(seed, broken) for seed in range(first, last) if (broken := run(scenario(seed)).broken)]
    for seed, broken in failed:
        sys.stdout.write(f"{seed}: {'; '.join(broken)}\n")
    sys.stdout.write(f"{last - first:,} seeds, {len(failed):,} failed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
