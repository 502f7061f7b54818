"""What holds for all tests."""

import signal
import tempfile
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

# In the background of a script it is ignored, by the tests and by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def on_disk(pytestconfig: pytest.Config) -> Iterator[Path]:
    """Return a directory on the file system of the checkout: temporary files are in memory on many hosts."""
    parent = pytestconfig.rootpath / ".pytest_cache"
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)


@pytest.fixture(scope="session", autouse=True)
def _plans_of_stores_are_those_of_strangers() -> Iterator[None]:
    """Let every plan that a store makes go through the checks that it passes over (``in_flight``)."""
    from gpuscan.store import in_flight
    from gpuscan.store.plan import Plan

    made = in_flight._plan_of

    @wraps(made)
    def made_and_checked(**values: Any) -> Plan:
        plan, checked = made(**values), Plan(**values)
        for name in Plan.__slots__:
            assert getattr(plan, name) is getattr(checked, name), f"the checks convert {name}"
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_flight, "_plan_of", made_and_checked)
        yield
