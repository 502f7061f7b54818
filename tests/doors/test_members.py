"""Nobody but a member itself names it: everything else goes over the catalogue of its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.catalogue import Catalogue
from gpuscan.bench.peers.catalogue import PEERS
from gpuscan.bench.peers.contract import PeerKind
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.kernels.catalogue import BACKENDS
from gpuscan.kernels.contract import BackendKind
from gpuscan.monitors.catalogue import MONITORS
from gpuscan.monitors.contract import MonitorKind
from gpuscan.producers.catalogue import PRODUCERS
from gpuscan.producers.contract import ProducerKind
from gpuscan.reproduce.catalogue import EXPERIMENTS
from gpuscan.reproduce.contract import Experiment
from gpuscan.service.helpers.catalogue import HELPERS
from gpuscan.service.helpers.contract import HelperKind
from gpuscan.topology.catalogue import MACHINES
from gpuscan.topology.contract import MachineSource
from gpuscan.traces.catalogue import TRACES
from gpuscan.traces.contract import TraceFormat

ROOT = Path(__file__).parents[2]
CATALOGUES: list[Catalogue[Any]] = [
    *(PRODUCERS, MONITORS, MACHINES, TRACES, BACKENDS, PEERS, DESIGNS, EXPERIMENTS, HELPERS),
]
FOLDERS = (
    "gpuscan.producers.built_in.",
    "gpuscan.monitors.built_in.",
    "gpuscan.topology.built_in.",
    "gpuscan.traces.built_in.",
    "gpuscan.kernels.backends.",
    "gpuscan.bench.peers.built_in.",
    "gpuscan.designs.built_in.",
    "gpuscan.reproduce.built_in.",
    "gpuscan.service.helpers.built_in.",
)
ALLOWED = {
    ("gpuscan/__init__.py", "gpuscan.producers.built_in.hint_faults"),  # a public name of gpuscan
    ("gpuscan/__init__.py", "gpuscan.producers.built_in.hint_faults.HintFaultSource"),
    ("gpuscan/sim/spec.py", "hint-faults"),  # each spec says which producer it is for
    ("gpuscan/sim/sampler.py", "sampler"),
    ("gpuscan/sim/accessed_bits.py", "a-bit"),
    ("gpuscan/sim/hotness_units.py", "hotness-unit"),
    ("gpuscan/snapshot/snapshot.py", "kpageflags"),  # the kernel's word for page flags
}
COMMON = {"numpy", "idle", "written", "cpu", "reference", "gpuscan"}
"""Names that are words for other things, too: packages, states, what a measurement is taken on."""
OWN = ("built_in/", "kernels/backends/", "kernels/cuda/", "kernels/cpu/", "kernels/reference.py")


def texts() -> Iterator[tuple[str, str]]:
    """Yield (file, string or imported module) of the library and the command line."""
    for folder in ("gpuscan", "kernels", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if any(own in name for own in OWN) or name.startswith(("gpuscan/kernels/", "gpuscan/cli/")):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield name, node.value
                elif isinstance(node, ast.ImportFrom):
                    yield name, node.module or ""
                    yield from ((name, f"{node.module}.{one.name}") for one in node.names)


def test_nobody_else_names_a_member() -> None:
    names = {name for catalogue in CATALOGUES for name in catalogue.names} - COMMON
    assert {"sampler", "damon", "perf", "cuda", "duckdb"} <= names
    found = {(file, text) for file, text in texts() if text in names or text.startswith(FOLDERS)}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "contract",
    [ProducerKind, MonitorKind, MachineSource, TraceFormat, BackendKind, PeerKind, Experiment, HelperKind],
)
def test_what_is_not_declared_is_refused(contract: Any) -> None:
    for field in fields(contract):
        assert (field.default, field.default_factory) == (MISSING, MISSING), field.name
    with pytest.raises(TypeError, match=r"missing .* required keyword-only arguments?"):
        contract()


@pytest.mark.parametrize(
    ("document", "catalogue"),
    [
        ("producers.md", PRODUCERS),
        ("live.md", MONITORS),
        ("performance.md", PEERS),
        ("traces.md", TRACES),
        ("reproduce.md", EXPERIMENTS),
        ("service.md", HELPERS),
    ],
)
def test_the_documents_have_every_one(document: str, catalogue: Catalogue[object]) -> None:
    text = (ROOT / "docs" / document).read_text()
    assert [name for name in catalogue.names if f"`{name}`" not in text and f"**{name}**" not in text] == []
