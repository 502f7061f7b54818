"""All scan designs: those of :mod:`gpuscan.designs.built_in`, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.designs.contract import Design
from gpuscan.designs.tunables import Tuning

if TYPE_CHECKING:
    from gpuscan.designs.machine import Machine
    from gpuscan.designs.model import Model
    from gpuscan.engine.policy import Policy


class Designs(Catalogue[Design]):
    """The catalogue, and the order that designs have in it."""

    def __init__(self) -> None:
        super().__init__("design", "gpuscan.designs.built_in", Design, "DESIGN")

    @property
    def in_order(self) -> tuple[Design, ...]:
        """All designs in the order of tables, which imports each."""
        return tuple(sorted(self, key=lambda design: (design.order, design.name)))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of those that are models, in the order of tables."""
        return tuple(design.name for design in self.in_order if not design.runs_on_a_store)

    def _load(self, name: str) -> Design:
        found = super()._load(name)
        if found.name != name:
            raise InputError(
                f"the design {name!r} of {self.origin(name)} says that its name is {found.name!r}; "
                "mend or uninstall that package"
            )
        return found


DESIGNS = Designs()


def why_not_on(design: Design, top_tier: Iterable[bool]) -> str:
    """Return why a design has nothing to do on a machine, in words that follow its name; empty where it has.

    Args:
        design: what it declares.
        top_tier: of each node with memory, whether it is of the top tier.
    """
    if design.counts_accesses == "always" and all(top_tier):
        return "promotes from lower tiers only, and all memory of this machine is one tier"
    return ""


def make_model(name: str, machine: Machine, policy: Policy) -> Model:
    """Return the model of a design, on a machine.

    Args:
        name: of a design that is a model.
        machine: whose pages are walked.
        policy: what of it holds for a design is said by its ``bounds``; ``hz`` counts jiffies.

    Raises:
        InputError: there is no such design, it is no model or has nothing to do on this machine, or the
            kernel would refuse a value.
    """
    design = DESIGNS.get(name)
    if design.model is None:
        raise InputError(f"the design {name} is no model; choose {', '.join(DESIGNS.models)}")
    design.check(Tuning(policy))
    if why := why_not_on(design, (machine.is_top_tier(nid) for nid in machine.nids)):
        raise InputError(f"the design {name} {why}; choose another workload, such as cxl-promote")
    return design.model.make(machine, policy)
