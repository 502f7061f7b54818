"""What a workload file may say about its producer: which one, and the options of each.

The tables of producers are those that the catalogue has. One is imported where a file names it: as the
``kind``, or by its table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, create_model, field_validator, model_validator

from gpuscan.base.errors import InputError
from gpuscan.base.values import Model, one_of_names
from gpuscan.producers.catalogue import PRODUCERS
from gpuscan.producers.numa_balancing import HintFaultOptions
from gpuscan.producers.options import Options
from gpuscan.sim.spec import HintFaultSpec, ProducerSpec
from gpuscan.topology.model import Topology

_FAULTS = HintFaultSpec()
DEFAULT_PRODUCER = HintFaultSpec.kind
"""What a machine has anyway."""


def table_names() -> dict[str, str]:
    """Return the producers by the key of their table."""
    return {table_of(name): name for name in PRODUCERS.names}


def table_of(name: str) -> str:
    """Return the key of a producer's table."""
    return name.replace("-", "_")


class Producer(Model):
    """How accesses become marks. ``kind`` picks one of the tables; the others wait for ``--producer``.
    Of a trace, whose samples are what marks pages, ``mark`` and ``only_lower_tier`` count.

    ``hint_faults`` is the NUMA balancing that a machine has whatever marks its pages. Tables of other
    producers are attributes, too, if the file has them or ``kind`` names them.
    """

    model_config = ConfigDict(extra="allow")

    kind: str = DEFAULT_PRODUCER
    mark: Literal["request", "record"] = _FAULTS.mark
    only_lower_tier: bool = _FAULTS.only_lower_tier
    hint_faults: HintFaultOptions = HintFaultOptions()

    @model_validator(mode="before")
    @classmethod
    def _with_tables(cls, given: Any) -> Any:
        """Check the tables of producers, each by its own model."""
        if not isinstance(given, Mapping):
            return given
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        tables = {key: value for key, value in given.items() if key not in own}
        kind = own.get("kind", DEFAULT_PRODUCER)
        if isinstance(kind, str) and kind in PRODUCERS and table_of(kind) not in cls.model_fields:
            tables.setdefault(table_of(kind), {})
        checked = _tables_model(frozenset(tables)).model_validate(tables)
        return {**own, **{key: getattr(checked, key) for key in type(checked).model_fields}}

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        return one_of_names(kind, PRODUCERS.names)

    def numa_balancing(self, topology: Topology) -> HintFaultSpec:
        """Return how NUMA balancing works on a machine."""
        return self.hint_faults.numa_balancing(topology, self.mark, self.only_lower_tier)

    def turns_ns(self) -> dict[str, int]:
        """Return pauses by key, of what costs a loop of its own each time; 0 where nothing comes by."""
        table = table_of(self.kind)
        return {f"{table}.{key}": every_ns for key, every_ns in self._options().turns_ns().items()}

    def spec(self, topology: Topology) -> ProducerSpec | None:
        """Return what watches instead of NUMA balancing, None where that marks.

        Raises:
            InputError: what a producer makes is another one's, which would be run in its place.
        """
        spec = self._options().spec(topology)
        kind = DEFAULT_PRODUCER if spec is None else getattr(spec, "kind", None)
        if kind != self.kind:
            raise InputError(
                f"the producer {self.kind} makes a spec of the kind {kind!r}; let both have one name"
            )
        return spec

    def _options(self) -> Options:
        return cast("Options", getattr(self, table_of(self.kind)))


@cache
def _tables_model(keys: Collection[str]) -> type[BaseModel]:
    """Return a model of these tables; it refuses keys that no producer has."""
    known = table_names()
    models = {key: PRODUCERS.get(known[key]).options for key in sorted(keys) if key in known}
    fields: dict[str, Any] = {key: (model, ...) for key, model in models.items()}
    return create_model("Producers", __base__=Model, **fields)
