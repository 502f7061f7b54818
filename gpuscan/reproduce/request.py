"""What ``gpuscan reproduce`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.described import Option, described
from gpuscan.base.errors import InputError


@dataclass(frozen=True, slots=True)
class ReproduceRequest:
    """Which experiments, and where the answer goes."""

    names: tuple[str, ...] = described(
        (), Option("Experiments; all, where none is named.", metavar="NAME", is_argument=True)
    )
    only_list: bool = described(False, Option("Name them, and run none.", ("--list",)))
    topology: str | None = described(
        None,
        Option(
            "For an experiment that takes one: a preset, a file that describes a machine or host.",
            metavar="SOURCE",
        ),
    )
    memory: str | None = described(None, Option("Size of a preset of --topology.", metavar="SIZE"))
    seed: int = described(1, Option("Of everything random.", low=0, high=(1 << 63) - 1))
    markdown: bool = described(False, Option("Print the tables as Markdown."))
    out: Path | None = described(
        None, Option("Keep the document, the Markdown and plots there.", metavar="DIR")
    )
    plots: bool = described(True, Option("Draw plots into --out (needs matplotlib).", has_no=True))
    force: bool = described(False, Option("Replace an earlier one at --out."))

    def check(self) -> None:
        """Refuse options that say nothing.

        Raises:
            InputError: one does.
        """
        if self.memory is not None and self.topology is None:
            raise InputError("--memory is the size of a preset of --topology; add that, or leave it out")
