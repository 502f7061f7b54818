"""The CUDA kernels compile for every architecture as they should: no spills, wide loads, known sizes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

import pytest

import cuda_compiler
import cuda_counts
import cuda_paths
from cuda_compiler import ARCHITECTURES, MARK, Usage, compiled, instructions, memory_steps, missing, usage
from gpuscan.bench.gpu.counts import counts_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "notes" / "cuda-machine-code.md"
SM_REGISTERS = 65_536
THREADS = 256
OTHERS = [
    pytest.param(each, marks=() if each == 90 else pytest.mark.slow, id=str(each)) for each in ARCHITECTURES
]
"""All of them; a compilation takes one to two seconds, so most wait for the slow suite."""


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    reason = missing()
    if reason is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"the CUDA kernels must be compiled in CI, but {reason}")
    pytest.skip(reason)


def assert_lean(kernels: dict[str, Usage]) -> None:
    """Check that no kernel spills, has a stack or keeps a block pair from sharing an SM."""
    assert {"request", "record", "release", "scan_dense", "scan_indexed", "scatter", "popcounts"} <= set(
        kernels
    )
    for name, uses in kernels.items():
        assert (uses.stack, uses.local) == (0, 0), f"{name} keeps variables in memory"
        assert 2 * THREADS * uses.registers <= SM_REGISTERS, f"{name} takes {uses.registers} registers"
        assert uses.shared <= 48 * 1024, f"{name} takes {uses.shared} bytes of static shared memory"


@pytest.mark.parametrize("architecture", OTHERS)
def test_every_kernel_is_lean(architecture: int) -> None:
    assert_lean(usage(compiled("rfc", False, architecture)))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("format_name", "exclusive"),
    [("rfc", True), ("pghot", False), ("pghot", True), ("pghot-compact", False), ("pghot-compact", True)],
)
def test_every_kernel_of_the_other_modules_is_lean(
    format_name: str, exclusive: bool, architecture: int
) -> None:
    assert_lean(usage(compiled(format_name, exclusive, architecture)))


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("kernel", ["scan_dense", "scan_dense_budget", "count_ready"])
def test_records_are_read_16_bytes_at_a_time(kernel: str, architecture: int) -> None:
    loads = [line for line in instructions(compiled("rfc", False, architecture), kernel) if "LDG" in line]
    wide = [line for line in loads if "LDG.E.128" in line]
    assert len(wide) >= (4 if kernel.startswith("scan") else 1)
    # Past the first-level cache, which would hide what others wrote.
    assert all("STRONG.GPU" in line for line in wide)


def assert_in_flight_together(format_name: str, exclusive: bool, architecture: int, kernel: str) -> None:
    """Check that the four wide loads of a tile follow each other, and nothing in between waits for one."""
    code = instructions(compiled(format_name, exclusive, architecture), kernel)
    first, *_, last = wide = [place for place, line in enumerate(code) if "LDG.E.128" in line]
    assert len(wide) == 4
    loaded: set[str] = set()
    for line in code[first : last + 1]:
        named = re.findall(r"\bR(\d+)", line)
        assert not re.search(r"\b(BRA|BAR|BSSY|CALL|EXIT)", line), line
        assert not loaded & set(named), f"{line} waits for a load"
        if "LDG.E.128" in line:
            loaded |= {str(int(named[0]) + each) for each in range(4)}


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("kernel", ["scan_dense", "scan_dense_budget"])
def test_four_wide_loads_are_in_flight_at_once(kernel: str, architecture: int) -> None:
    assert_in_flight_together("rfc", False, architecture, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["scan_dense", "scan_dense_budget"])
@pytest.mark.parametrize(
    ("format_name", "exclusive"), [("rfc", True), ("pghot-compact", False), ("pghot-compact", True)]
)
def test_they_are_in_the_other_modules_too(
    kernel: str, format_name: str, exclusive: bool, architecture: int
) -> None:
    assert_in_flight_together(format_name, exclusive, architecture, kernel)


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("kernel", ["scan_indexed", "scan_indexed_budget"])
def test_eight_exchanges_of_ready_words_are_in_flight_at_once(kernel: str, architecture: int) -> None:
    code = instructions(compiled("rfc", False, architecture), kernel)
    places = [place for place, line in enumerate(code) if "ATOMG.E.EXCH.64" in line][:8]
    results = {re.findall(r"\bR(\d+)", code[place])[0] for place in places}
    assert len(results) == 8
    for line in code[places[0] : places[-1]]:
        used = re.findall(r"\bR(\d+)", line)[1:]
        assert not results & set(used), f"{line} waits for an exchange"
        assert "BRA" not in line


@pytest.mark.parametrize("architecture", OTHERS)
def test_a_crowded_blocks_records_are_brought_before_it_is_queued(architecture: int) -> None:
    """64 sectors, two a lane, by instructions that nothing waits for; then the queue, then a claim's look."""
    code = instructions(compiled("rfc", False, architecture), "scan_indexed")
    brought = [place for place, line in enumerate(code) if re.search(r"CCTL\.E\.PF2|PREFETCH", line)]
    queued = [place for place, line in enumerate(code) if re.search(r"\bSTS ", line) and place > brought[0]]
    assert len(brought) % 2 == 0
    for first, second in zip(brought[::2], brought[1::2], strict=True):
        assert "+0x400]" in code[second]
        assert "+0x" not in code[first]
    assert queued


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["scan_dense", "scan_indexed", "scan_dense_budget", "scan_indexed_budget"])
def test_records_of_one_word_are_looked_at_once_before_they_are_claimed(
    kernel: str, architecture: int
) -> None:
    code = instructions(compiled("pghot-compact", False, architecture), kernel)
    exchange = next(place for place, line in enumerate(code) if re.search(r"ATOMG?\.E\.CAS", line))
    fence = max(place for place, line in enumerate(code[:exchange]) if "MEMBAR" in line)
    assert sum("LDG.E.STRONG.GPU" in line for line in code[fence:exchange]) == 1


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("kernel", ["scan_dense", "scan_indexed"])
def test_totals_are_added_to_once_a_block(kernel: str, architecture: int) -> None:
    code = instructions(compiled("rfc", False, architecture), kernel)
    (adds,) = (place for place, line in enumerate(code) if re.search(r"(ATOMG?|RED)\.E\.ADD\.64", line))
    exchange = next(place for place, line in enumerate(code) if re.search(r"ATOMG?\.E\.CAS", line))
    assert any("BAR.SYNC" in line for line in code[exchange:adds]), "the block is not waited for"


def test_a_claim_round_serves_full_warps() -> None:
    """A tile at 1e-2 took 690 instructions when every 32 records with a hit were a round of claims."""
    counts = cuda_paths.tile_counts(compiled("rfc", False, 90))
    assert counts.of_tile(1e-2, 512) < 250
    assert counts.plain < 100


DESCEND = ["look", "take blocks", "fence", "take bits", "fence", "look"]
CLEARING = ["look", "take blocks", "fence", "clear bits", "fence", "look"]
ORDERS = {
    "request": [*MARK, "fence", "look", "set flag"],
    "record": [*MARK, "fence", "look", "set flag"],
    "release": [*MARK, "fence", "look", "set flag"],
    "undo": MARK,
    "scan_dense": [*CLEARING, *MARK],
    "scan_indexed": [*DESCEND, *MARK],
}
"""The protocol's order, in which the code is laid out: producers climb, scans descend, claim, restore."""


def assert_in_order(kernel: str, format_name: str, architecture: int) -> None:
    steps = memory_steps(compiled(format_name, False, architecture), kernel)
    order = ORDERS[kernel]
    start = steps.index(order[0]) if kernel.startswith("scan") else steps.index("exchange record")
    assert steps[start : start + len(order)] == order


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("kernel", list(ORDERS))
def test_machine_code_keeps_the_order_of_the_protocol(kernel: str, architecture: int) -> None:
    assert_in_order(kernel, "rfc", architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", list(ORDERS))
def test_machine_code_of_the_compact_module_does(kernel: str, architecture: int) -> None:
    assert_in_order(kernel, "pghot-compact", architecture)


@pytest.mark.parametrize(
    ("format_name", "architecture"),
    [
        pytest.param(name, each, marks=() if (name, each) == ("rfc", 90) else pytest.mark.slow)
        for name in cuda_counts.FORMATS
        for each in cuda_counts.ARCHITECTURES
    ],
)
def test_the_model_has_the_counts_of_this_machine_code(format_name: str, architecture: int) -> None:
    recorded = counts_of(format_name, architecture)
    assert {
        name: {"registers": each.registers, "shared_bytes": each.shared_bytes, "ways": each.ways}
        for name, each in recorded.items()
    } == cuda_counts.counted(format_name, architecture), "run python tests/cuda_counts.py"


@pytest.mark.slow
@pytest.mark.parametrize("module", [cuda_compiler, cuda_paths])
def test_the_document_has_the_tables(module: ModuleType) -> None:
    assert module.table() in DOCUMENT.read_text(), (
        f"run python tests/{module.__name__}.py and put its table into docs/notes/cuda-machine-code.md"
    )
