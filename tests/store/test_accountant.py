"""Requests by the billion, producers, scans, budgets, releases and frees at once: each ends once."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_invariants import sabotaged

from accountant import Accountant
from gpuscan.kernels.cpu import CpuBackend, backend, scan
from gpuscan.records.formats import STORE_FORMATS
from stores import always_parallel, plain_layout

SHORT = 1_000_000
LONG = 1_000_000_000


def accountant(format_name: str, batch_length: int) -> Accountant:
    """Return one for a store that fits into a cache."""
    return Accountant(CpuBackend(2).open(plain_layout(format_name, n_sections=1)), batch_length)


@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_every_request_is_accounted_for(format_name: str) -> None:
    with always_parallel():
        counted = accountant(format_name, 1 << 15)
        counted.run(SHORT)
    assert counted.total("n_asked") >= SHORT


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_a_billion_requests_are_accounted_for(format_name: str) -> None:
    n_requests = -(-LONG // len(STORE_FORMATS))
    counted = accountant(format_name, 1 << 17)
    counted.run(n_requests)
    assert counted.total("n_asked") >= n_requests


FAULTS = {
    "a claim in two steps": (
        "claim",
        "        seen = atomic_compare_exchange(store.records, flat, word, 0)\n"
        "        if seen == word:\n"
        "            return word\n",
        "        for _ in range(3000):\n"
        "            atomic_load(store.records, flat)\n"
        "        atomic_compare_exchange(store.records, flat, atomic_load(store.records, flat), 0)\n"
        "        seen = word\n"
        "        if seen == word:\n"
        "            return word\n",
    ),
    "neighbours claimed in two steps": (
        "claim",
        "    return group if atomic_compare_exchange(store.wide_records, index, group, 0) == group else 0\n",
        "    for _ in range(3000):\n"
        "        atomic_load(store.wide_records, index)\n"
        "    seen = atomic_load(store.wide_records, index)\n"
        "    atomic_compare_exchange(store.wide_records, index, seen, 0)\n"
        "    return group\n",
    ),
    "a request that is lost": (
        "request",
        "    nid_field = (target & fields.nid_max) << fields.nid_shift\n",
        "    nid_field = (target & fields.nid_max) << fields.nid_shift\n"
        "    if head % 4096 == 77:\n"
        "        return _ACCEPTED\n",
    ),
}


def run_several_times() -> None:
    for _ in range(5):
        accountant("rfc", 1 << 15).run(5 * SHORT)


@pytest.mark.slow  # compiles the scans anew
@pytest.mark.alone  # scan and producer have to run at once, and a window may be missed for a while
@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_accountant_sees(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each, module in sabotaged(tmp_path, *FAULTS[fault]).items():
        for driver in (scan, backend):
            if hasattr(driver, each):
                monkeypatch.setattr(driver, each, getattr(module, each))
    with always_parallel(), pytest.raises(AssertionError):
        run_several_times()
