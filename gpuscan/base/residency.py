"""What of a store is on its device, as a word and as options of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from gpuscan.base.described import Option
from gpuscan.base.errors import InputError

Residency = Literal["device", "index"]
"""``device``: all of a store is on its device; ``index``: the bits are, the records elsewhere."""
RESIDENCIES: tuple[str, ...] = get_args(Residency)

RESIDENCY_OPTION = Option(
    "What of the records is on the device: all, or the index alone, for machines that do not fit.",
    choices=RESIDENCIES,
)
RECORDS_DIR_OPTION = Option(
    "With --residency index: a directory for a file of the records, 4.3 GB for 4 TiB.", metavar="DIR"
)


def check_options(residency: str, records_dir: Path | None) -> None:
    """Refuse a directory for records that stay on the device.

    Raises:
        InputError: there is one.
    """
    if records_dir is not None and residency == "device":
        raise InputError(
            "--records-dir is for records that are not on the device; give --residency index too, or leave "
            "it out"
        )
