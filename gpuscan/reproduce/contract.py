"""What an experiment is: what was published, and what runs to be laid beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from gpuscan.base.arguments import flag, items, one_of, real, text
from gpuscan.base.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpuscan.topology.model import Topology

Kind = Literal["count", "rate", "ratio", "context"]
BARS: Mapping[Kind, float | None] = {"count": 0.01, "rate": 0.10, "ratio": 0.10, "context": None}
"""How far ours may be from the published figure, as a share of it; ``context`` is shown and not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published figure.

    Attributes:
        key: its name in what :attr:`Experiment.run` returns.
        what: for a person.
        value: as published.
        unit: of it; empty for a bare ratio.
        kind: which bar holds.
        fitted: a parameter of ours was chosen so that this figure comes out; it is not judged.
        missing: what makes ours differ, where it does; a row that is off without it says so.
    """

    key: str
    what: str
    value: float
    unit: str
    kind: Kind
    fitted: bool = False
    missing: str = ""

    def __post_init__(self) -> None:
        for name in ("key", "what"):
            text(f"a published figure: {name}", getattr(self, name))
        real(f"the published figure {self.key}", self.value, float("-inf"))
        one_of(f"the published figure {self.key}: kind", self.kind, get_args(Kind))
        flag(f"the published figure {self.key}: fitted", self.fitted)


@dataclass(frozen=True, slots=True)
class Order:
    """Figures that were published in this order, smallest first; equal ones stand in any order.

    Attributes:
        what: what is ordered, for a person.
        keys: two or more of them, ascending as published.
        missing: what turns ours around, where it is.
    """

    what: str
    keys: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What an experiment shows beside the comparison.

    Attributes:
        title: of it.
        columns: headings; the first column names the rows.
        rows: texts and numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of ours gave.

    Attributes:
        figures: by the keys of :attr:`Experiment.published`; one that is not there could not be had.
        tables: beside them.
    """

    figures: Mapping[str, float]
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is given.

    Attributes:
        seed: of everything random.
        topology: to be asked instead of the experiment's own; only where it takes one.
        on_step: called with what is being done, and the share of the experiment that was done before.
    """

    seed: int = 1
    topology: Topology | None = None
    on_step: Callable[[str, float], None] = field(default=lambda what, share: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A published experiment.

    Attributes:
        about: one line.
        source: who, where, when; what it is cited as.
        machine: on what it was measured, and what ours is.
        published: the figures, in the order of the table; empty for a question that nobody has measured.
        orders: all orderings among them.
        not_modelled: what there was and is not here.
        fitted: parameters that were chosen by published figures, and by which; the rest of ours is
            not chosen by any figure of :attr:`published`.
        scale: of ours against theirs, in words; ``as published`` where it is none.
        takes_topology: whether it answers for a machine of the user's.
        draw: makes a plot of an outcome; None: it has none.
        run: does it.
    """

    about: str
    source: str
    machine: str
    published: tuple[Published, ...]
    orders: tuple[Order, ...]
    not_modelled: tuple[str, ...]
    fitted: tuple[str, ...]
    scale: str
    takes_topology: bool
    draw: Callable[[Outcome], Figure] | None
    run: Callable[[Setting], Outcome]

    def __post_init__(self) -> None:
        for name in ("about", "source", "machine", "scale"):
            text(f"an experiment: {name}", getattr(self, name))
        items("an experiment: published", self.published, Published, "give Published in a tuple")
        items("an experiment: orders", self.orders, Order, "give Order in a tuple")
        values = {figure.key: figure.value for figure in self.published}
        if len(values) != len(self.published):
            raise ArgumentError(f"the experiment {self.about!r} has two figures of one key")
        for order in self.orders:
            if len(order.keys) < 2 or not values.keys() >= set(order.keys):
                raise ArgumentError(f"the order {order.what!r} names figures that were not published")
            in_order = [values[key] for key in order.keys]
            if in_order != sorted(in_order):
                raise ArgumentError(f"the order {order.what!r} is not the published one")
