"""The ledger: every folio is in one column, and a lost one is noticed."""

from __future__ import annotations

import pytest

from gpuscan.base.errors import RunFailedError
from gpuscan.engine.ledger import Ledger
from gpuscan.kernels.api import Outcome


def counts(**given: int) -> dict[Outcome, int]:
    return {outcome: given.get(outcome.name.lower(), 0) for outcome in Outcome}


def test_every_way_a_request_ends() -> None:
    ledger = Ledger()
    ledger.produced(counts(accepted=10, refreshed=3, own_node=4, counted=7))
    ledger.claimed(8)
    ledger.moved(3)
    ledger.ended("refused: EACCES", 1)
    ledger.put_back(n_restored=2, n_superseded=1)
    ledger.ended_pending("freed", 1)
    assert ledger.in_flight == 1
    assert ledger.pending == 10 - 1 - 3 - 1 - 2
    ledger.verify(3, 1)
    assert ledger.as_dict() == {
        "requested": 10,
        "pending": 3,
        "in_flight": 1,
        "migrated": 3,
        "superseded": 1,
        "dropped": {"refused: EACCES": 1, "freed": 1},
        "refreshed": 3,
        "counted": 7,
        "rejected": {"own_node": 4},
        "released": 2,
    }


@pytest.mark.parametrize(("n_ready", "n_held"), [(0, 1), (2, 1), (1, 0), (1, 2)])
def test_a_lost_or_doubled_request_is_an_error(n_ready: int, n_held: int) -> None:
    ledger = Ledger()
    ledger.produced(counts(accepted=2))
    ledger.claimed(1)
    ledger.verify(1, 1)
    with pytest.raises(RunFailedError, match="conservation broke"):
        ledger.verify(n_ready, n_held)
