"""Around every test in the guest: a kernel that moves nothing by itself and has nothing to complain of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

GUEST = Path("/run/guest/agent")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests measured."""
    if not GUEST.exists():
        return
    from guest import shown

    for line in shown.table():
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _undisturbed_kernel() -> Iterator[None]:
    if not GUEST.exists():
        pytest.fail("this changes a kernel's state and runs in the guest only: make test-live")
    from guest import kernel
    from guest.damon_scheme import n_kdamonds

    kernel.settle()
    position = kernel.log_position()
    yield
    assert kernel.trouble_since(position) == []
    assert n_kdamonds() == 0, "DAMON is left as it was found"
