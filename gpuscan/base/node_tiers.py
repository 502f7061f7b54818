"""``--tier NID=TIER``: what each command that has it says of it, and what it means.

NumPy is not needed here: ``gpuscan live`` loads it its own way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpuscan.base.described import Option
from gpuscan.base.errors import InputError

TIER_OPTION = Option(
    "Put a node into a tier, 0 the fastest, whatever the machine says: 2=1; can be repeated.",
    ("--tier",),
    metavar="NID=TIER",
)

_TIER = re.compile(r"([0-9]{1,6})=([0-9]{1,6})", re.ASCII)


def parse_tiers(texts: Sequence[str]) -> dict[int, int]:
    """Return the tier of each node that ``--tier`` names, by nid.

    Raises:
        InputError: one is not ``NID=TIER``, or a node is given two tiers.
    """
    tiers: dict[int, int] = {}
    for text in texts:
        match = _TIER.fullmatch(text.strip())
        if match is None:
            raise InputError(f"--tier {text}: that is not NID=TIER; write for example --tier 2=1")
        nid, tier = int(match[1]), int(match[2])
        if tiers.setdefault(nid, tier) != tier:
            raise InputError(f"--tier {text}: node {nid} is put into tier {tiers[nid]} too; give one of them")
    return tiers
