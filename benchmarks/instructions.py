"""How many instructions the CPU kernels take, counted by Valgrind: ``python benchmarks/instructions.py``.

Counters of the hardware are seldom there in a virtual machine; a count of instructions is, and does not
depend on what else runs. The same process is run under callgrind, with one thread, and asks for its parent
(``getppid``) between the steps, which is where callgrind writes down what it has counted.

Valgrind knows no AVX-512: the kernels are compiled for AVX2 beforehand, into a cache of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.files.writing import write_file

N_PAGES = 1 << 24
N_TARGETS = 16
DENSITIES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
N_REQUESTS = 1 << 18
_NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_AVX2_ONLY = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}

Step = tuple[str, str, int, Callable[[], object]]
"""What is done, what is counted in it, how many of these, and the call."""


def steps(bed: Bed) -> Iterator[Step]:
    """Yield what is measured; what comes before each is prepared meanwhile."""
    for density in DENSITIES:
        case = Case(bed.shape, density, "uniform", seed=1)
        bed.fill(case)
        yield f"dense, {density:g}", "page", N_PAGES, lambda: bed.empty("dense")
        n_ready = bed.fill(case)
        if n_ready:
            yield f"indexed, {density:g}", "candidate", n_ready, lambda: bed.empty("indexed")
    rng = np.random.default_rng(2)
    flats = rng.integers(0, N_PAGES, N_REQUESTS)
    nids = bed.targets(flats, rng)
    yield (
        "request, random",
        "request",
        N_REQUESTS,
        lambda: bed.store.kernels.request(flats, nids, _NO_OUTCOMES),
    )


def run_steps(names: Path) -> None:
    """Do every step between two marks; write down what was done."""
    done = []
    with Bed(StoreShape(N_PAGES, N_TARGETS, "rfc", "cpu"), n_threads=1) as bed:
        for _ in steps(bed):
            bed.empty()  # load every kernel
        bed.empty()
        for label, unit, n, call in steps(bed):
            os.getppid()
            call()
            os.getppid()
            done.append((label, unit, n))
    write_file(names, json.dumps(done))


def count(folder: Path) -> Iterator[tuple[str, str, int, int]]:
    """Run this file under callgrind; yield the instructions of every step."""
    cache, out, names = folder / "cache", folder / "callgrind", folder / "steps.json"
    environment = {**os.environ, **_AVX2_ONLY, "PYTHONHASHSEED": "0", "NUMBA_CACHE_DIR": str(cache)}
    child = [sys.executable, __file__, "--steps", str(names)]
    subprocess.run(child, env=environment, check=True)
    tool = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}", "--quiet"]
    subprocess.run([*tool, *child], env=environment, check=True)
    # Dumps are numbered; a mark before and one after a step make every second one the step's.
    dumps = sorted(folder.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
    for (label, unit, n), dump in zip(json.loads(names.read_text()), dumps[1::2], strict=True):
        yield label, unit, n, _total(dump)


def _total(dump: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{dump} has no sum; is this valgrind 3.19 or newer?")
    return int(found[1])


def main() -> None:
    """Count and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        run_steps(options.steps)
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not here; install it (apt install valgrind)")
    with tempfile.TemporaryDirectory() as name:
        for label, unit, n, instructions in count(Path(name)):
            sys.stdout.write(
                f"{label:<18} {instructions:>14,} instructions {instructions / n:>9.3f} a {unit}\n"
            )


if __name__ == "__main__":
    main()
