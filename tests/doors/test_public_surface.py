"""Every public constructor and method, given values of wrong type, shape and range, refuses them or is right.

tests/surface.py knows the surface and how to spoil a value, tests/surface_child.py calls it in processes of
their own: a GpuscanError with a sentence or the result of the reference, a store that a refusal left alone,
no crash, no hang, no huge allocation.
"""

from __future__ import annotations

import enum
import inspect
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gpuscan
import surface
from effort import share_of

CHILD = Path(__file__).parents[1] / "surface_child.py"


def cases(seed: int, n_cases: int, place: Path, *, code: str | None = None) -> dict[str, Any]:
    """Run cases in a child; a crash names its case."""
    how = [str(CHILD)] if code is None else ["-c", code]
    command = [sys.executable, *how, str(seed), str(n_cases), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHILD.parent)
    if done.returncode:
        last = place.read_bytes().rstrip(b"\0").decode() if place.exists() else "the start"
        pytest.fail(f"seed {seed} ended with {done.returncode} at: {last}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(results: list[dict[str, Any]], n_cases: int) -> None:
    faults = [fault for result in results for fault in result["faults"]]
    assert not faults, "\n".join(faults)
    ended = {kind: sum(result["ended"].get(kind, 0) for result in results) for kind in results[0]["ended"]}
    assert sum(ended.values()) == n_cases
    assert all(count > n_cases // 100 for count in ended.values()), ended


def test_spoilt_arguments(tmp_path: Path) -> None:
    check([cases(7, 400, tmp_path / "case")], 400)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_hundred_thousand_spoilt_arguments(tmp_path: Path) -> None:
    n_each = share_of(25_000, at_least=5000)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(cases, 100 + seed, n_each, tmp_path / str(seed)) for seed in range(4)]
        check([future.result() for future in futures], 4 * n_each)


def test_the_whole_surface_is_known() -> None:
    made = surface.world()
    entries = surface.entries()
    for entry in entries:
        for parameter in entry.parameters:
            entry.valid(made, parameter)
    called = {entry.owner or entry.name for entry in entries}
    left = set(surface.public()) - called - set(surface.PASSIVE)
    for name in left:
        thing = surface.public()[name]
        is_enum = issubclass(thing, enum.Enum)
        is_contract = getattr(thing, "_is_protocol", False) or inspect.isabstract(thing)
        assert is_enum or is_contract or issubclass(thing, Exception), name
    made.close()


def test_valid_arguments_are_taken() -> None:
    made = surface.world()
    refused = {}
    for entry in surface.entries():
        try:
            given = {name: entry.valid(made, name) for name in entry.parameters}
            if "node_mask" in given and entry.owner != "ScanRequest":
                del given["node_mask"]
            entry.target(made)(**given)
        except gpuscan.GpuscanError as error:
            refused[str(entry).partition("(")[0]] = str(error)
    made.close()
    states = {name for name in refused if name.endswith(".restore")}  # the state is an empty one
    others = {
        "PageMap.from_extents",
        "Snapshot.read",
        "Snapshot.split_cxl",
        "build_scenario",
        "Ledger.verify",
        "Store.scan_on_device",  # there is no GPU
    }
    assert set(refused) == states | others, refused


def test_a_crash_is_seen_and_named(tmp_path: Path) -> None:
    code = (
        "import ctypes, pathlib, sys; pathlib.Path(sys.argv[3]).write_text('Store.scan(nodes): nodes=7');"
        "ctypes.string_at(0)"
    )
    with pytest.raises(pytest.fail.Exception, match=r"ended with -11 at: Store.scan\(nodes\): nodes=7"):
        cases(1, 1, tmp_path / "case", code=code)


@pytest.mark.parametrize("kind", [gpuscan.Outcome, gpuscan.ReleaseOutcome, gpuscan.MigrateStatus])
def test_enumerations_and_protocols_refuse_in_a_sentence(kind: Any) -> None:
    for value in ("x", 77, None, 1 << 70):
        with pytest.raises(ValueError, match="is not a valid"):
            kind(value)
    for protocol in (gpuscan.Source, gpuscan.Migrator):
        with pytest.raises(TypeError, match="cannot be instantiated"):
            protocol()  # type: ignore[misc]
