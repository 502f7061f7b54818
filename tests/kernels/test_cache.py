"""Compiled kernels are found again, never stale; they work without a cache, forked and side by side."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuscan
from gpuscan.base import code_cache
from gpuscan.kernels import cpu
from gpuscan.kernels.api import Budget, RecordParams, ScanRequest
from gpuscan.kernels.cpu import CpuBackend, compile, loading
from gpuscan.kernels.cpu.bitmaps import count_set_bits
from stores import NONE, Filling, always_parallel, plain_layout, random_store

ROOT = Path(gpuscan.__file__).parent

# Compiles the two kernels that change nothing, and says whether they came from the cache.
PROBE = """
import os
import numpy as np
import gpuscan
assert gpuscan.__file__.startswith(os.path.realpath(".")), f"not the copy: {gpuscan.__file__}"
from gpuscan.kernels.cpu.bitmaps import count_set_bits, take_active
words = np.full(4, 3, dtype=np.uint64)
for bits in (8, 32):
    assert count_set_bits.for_bits(bits)(words) == 8, "wrong count"
    stats = count_set_bits.for_bits(bits).stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def copied(tmp_path: Path) -> Path:
    """Return a folder with a copy of what the kernels need."""
    package = tmp_path / "gpuscan"
    for room in ("kernels", "base", "records"):
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("")
    return tmp_path


def started(where: Path, script: str = PROBE, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"PYTHONPATH": str(where), "NUMBA_CACHE_DIR": str(where / "cache")} | environment
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=variables,
        cwd=where,  # -c puts it first on the path, ahead of an installed gpuscan
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.mark.slow
def test_a_second_process_loads_and_an_edited_helper_compiles_again(tmp_path: Path) -> None:
    where = copied(tmp_path)
    # Two at once on an empty cache: neither may break the other, or leave it broken.
    both = [started(where), started(where)]
    assert {line for process in both for line in output(process)} <= {"0 1", "1 0"}
    assert output(started(where)) == ["1 0", "1 0"]
    # In another file than the kernel's, which is all that Numba itself looks at.
    atomics = where / "gpuscan/kernels/cpu/atomics.py"
    text = atomics.read_text()
    atomics.write_text(text.replace("builder.ctpop(args[0])", "builder.cttz(args[0], ir.IntType(1)(0))"))
    assert atomics.read_text() != text
    process = started(where)
    _, err = process.communicate(timeout=120)
    assert "wrong count" in err, "the edited helper was not compiled: the cache served stale code"


def sources_of_kernels() -> set[Path]:
    """Return the files of the CPU kernels, and those that the modules of compiled functions import from."""
    own = {path.resolve() for path in (ROOT / "kernels/cpu").glob("*.py")}
    sources = set(own)
    for path in own:
        text = path.read_text()
        if not any(f"\n@{decorator}\n" in text for decorator in ("helper", "shared_step", "kernel")):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gpuscan."):
                sources.add(Path(inspect.getfile(import_module(str(node.module)))).resolve())
    return sources


def test_every_source_is_in_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        compile.source_hash.cache_clear()
        return compile.source_hash()

    read_bytes = Path.read_bytes
    before = digest()
    sources = sources_of_kernels()
    assert {"layout.py", "outcomes.py", "formats.py"} < {source.name for source in sources}
    for source in sources:
        with monkeypatch.context() as patch:
            patch.setattr(
                Path,
                "read_bytes",
                lambda path, source=source: read_bytes(path) + b"#" * (path.resolve() == source),
            )
            assert digest() != before, source
    assert digest() == before


def test_without_a_writable_cache_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache, "cache_place", lambda *_: (None, "/nowhere: Read-only file system"))
    code_cache._SAID.clear()
    function = count_set_bits.function
    with pytest.warns(RuntimeWarning, match=r"for want of a cache directory .* \(/nowhere: Read") as caught:
        assert compile.Kernel(function).for_bits(32)(np.full(2, 7, dtype=np.uint64)) == 6
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile.Kernel(function).for_bits(8)
    code_cache._SAID.clear()


RARE = {"undo", "count_set_bits", "count_ready_by_index"}
"""Kernels that are loaded when they are wanted: a scan was broken off, a store is counted."""


def kernels_of_package() -> dict[str, compile.Kernel]:
    modules = [import_module(f"{cpu.__name__}.{module.name}") for module in iter_modules(cpu.__path__)]
    found = [each for module in modules for each in vars(module).values() if isinstance(each, compile.Kernel)]
    return {each.__name__: each for each in found if each.__name__ not in RARE}


def test_no_call_waits_for_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    named = kernels_of_package()
    for kernel in named.values():
        monkeypatch.setattr(kernel, "_compiled", {})
    monkeypatch.setattr(loading, "_LOADED", set())
    layout = plain_layout()
    store = CpuBackend(2).open(layout)
    nothing = np.empty(0, dtype=np.int64)
    everything = np.arange(layout.n_pages, dtype=np.int64)
    params = RecordParams(now_jiffies=1, window_jiffies=1000, threshold=1, drop_top_tier=False)

    def produce(pfns: NDArray[np.int64]) -> None:
        nids, outcomes = np.ones(len(pfns), dtype=np.int32), np.empty(0, dtype=np.uint8)
        store.request(pfns, nids, outcomes)
        store.record(pfns, nids, params, outcomes)
        store.set_eligible(pfns, True)
        store.discard(pfns)

    def loaded() -> dict[str, list[int]]:
        return {
            name: [len(cast(Any, each).signatures) for each in kernel._compiled.values()]
            for name, kernel in named.items()
        }

    produce(nothing)
    store.release(nothing, np.empty(0, dtype=layout.fmt.dtype), np.empty(0, dtype=np.uint8))
    store.count_ready()
    store.take_active()
    before = loaded()
    assert before == {name: [1] for name in named}
    arrays = random_store(layout, Filling(ready=0.1, stale=0.01), np.random.default_rng(3))
    limit = Budget(np.full(8, 100), np.zeros(8, dtype=np.int64), 0)
    for path in ("dense", "indexed", "auto"):
        for mask in (None, np.ones(1024, dtype=np.uint8)):
            for capacity in (512, layout.n_pages):
                for budgeted in (False, True):
                    store.load(arrays)
                    cuts = store.rank(limit, 0, layout.n_pages, mask) if budgeted else None
                    plan = store.scan(ScanRequest(0, layout.n_pages, capacity, path, mask, cuts))
                    store.release(plan.flat, plan.words, np.empty(0, dtype=np.uint8))
    produce(everything)
    assert loaded() == before


def test_a_forked_child_has_threads_of_its_own() -> None:
    with always_parallel():
        backend = CpuBackend(3)
        layout = plain_layout()
        kernels = backend.open(layout)
        arrays = random_store(layout, Filling(ready=0.01), np.random.default_rng(2))
        kernels.load(arrays)
        expected = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages)).flat.copy()
        kernels.load(arrays)
        with warnings.catch_warnings():
            # Python 3.12 and later warn of forking with threads: that is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            flats = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages)).flat
            os._exit(0 if np.array_equal(flats, expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        np.testing.assert_array_equal(
            kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages)).flat, expected
        )


def test_threads_end_and_start_again() -> None:
    with always_parallel():
        backend = CpuBackend(2)
        kernels = backend.open(plain_layout())
        nids = np.zeros(4, dtype=np.int32)
        kernels.request(np.arange(4), nids, NONE)
        backend.workers.close()
        backend.workers.close()
        assert kernels.request(np.arange(4), nids, NONE)[6] == 4
        backend.workers.close()
