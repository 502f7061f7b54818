"""docs/workload.md says every key, and its example is a workload with the defaults it claims."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gpuscan.producers.catalogue import PRODUCERS
from gpuscan.workload.files import load_workload
from gpuscan.workload.model import MODELS, Workload
from gpuscan.workload.producer_model import Producer, table_of

(EXAMPLE,) = re.findall(
    r"```toml\n(.*?)```",
    (Path(__file__).parents[2] / "docs/workload.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
GIVEN = {
    "name",
    "processes",
    "memory",
    "placement",
    "demand",
    "node_intervals",
    "seed",
    "scan_size",
    "unit_size",
    "walk_size",
}
"""Keys of the example with other values than the defaults, or that are written in another form."""


def test_the_example_has_every_key() -> None:
    document = tomllib.loads(EXAMPLE)
    (process,) = document["processes"]
    tables = {**document, **document["producer"], "processes": process, "pattern": process["pattern"]}
    tables["demand"] = process["demand"]
    assert set(document) == set(Workload.model_fields)
    options = {table_of(name): PRODUCERS.get(name).options for name in PRODUCERS.names}
    for name, model in {**MODELS, **options}.items():
        if model is Producer:
            assert set(tables[name]) == {*model.model_fields, *options}
            continue
        assert set(tables[name]) == set(model.model_fields), name


def test_the_example_is_valid_and_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(EXAMPLE, encoding="utf-8")
    workload = load_workload(str(path))
    producer: Any = workload.producer  # it has the options of every kind
    models: list[BaseModel] = [workload, workload.source, producer, producer.hint_faults]
    models += [producer.sampler, producer.a_bit, producer.hotness_unit, producer.evacuate]
    models += [workload.policy, workload.cost]
    process = workload.processes[0]
    assert process.demand is not None
    for model in [*models, process, process.pattern, process.demand]:
        for key, field in type(model).model_fields.items():
            if key not in GIVEN and not field.is_required() and not isinstance(field.default, BaseModel):
                assert getattr(model, key) == field.default, key
    assert producer.hint_faults.scan_size == 256 << 20
    assert producer.a_bit.walk_size == 1 << 30
