"""The thread of RFC v1 in a guest's kernel and its model: each walk that the kernel tells of, batch by batch.

The environment says which kernel (docs/notes/kmigrated.md):
``GPUSCAN_GUEST_KERNEL=DIR .venv/bin/pytest -m guest tests/doors/test_kmigrated.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuscan.designs.machine import ZoneSpan
from gpuscan.designs.rfc import RfcFixed
from gpuscan.topology.zoneinfo import parse_zoneinfo
from guest.record_kmigrated import NOT_TRACED
from kmigrated.events import Trace, parse
from kmigrated.replay import replay, summary
from vm import parts
from vm.guest import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = parts.kernel_folder()
    if folder is None:
        pytest.skip(f"{parts.KERNEL_VARIABLE} names no folder with a kernel that has kmigrated")
    reason = parts.missing(folder)
    if reason is not None:
        pytest.skip(reason)
    out = tmp_path_factory.mktemp("kmigrated")
    with Guest(out=out, kernel=folder) as guest:
        result = guest.run(["python", "-m", "tests.guest.record_kmigrated"], limit_s=300)
    if result.status == NOT_TRACED:
        pytest.skip(f"{folder}: {result.stderr.strip()}")
    assert result.status == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def told(recorded: Path) -> tuple[Trace, list[ZoneSpan]]:
    zones = parse_zoneinfo((recorded / "zoneinfo").read_text(), "the guest's zoneinfo")
    spans = [
        ZoneSpan(zone.nid, zone.start_pfn, zone.start_pfn + zone.spanned) for zone in zones if zone.present
    ]
    return parse((recorded / "trace").read_text()), spans


def test_every_walk_of_the_kernel_is_the_models(
    told: tuple[Trace, list[ZoneSpan]], capsys: pytest.CaptureFixture[str]
) -> None:
    done = replay(*told)
    with capsys.disabled():
        print(f"\n{summary(done)}")  # noqa: T201 - what docs/notes/kmigrated.md has
    assert done.differences == []
    # All kinds of work were there: batches of several targets, full ones, pages that are where they belong.
    assert done.n_mixed > 0
    assert done.n_at_home > 0
    assert max(len(batch.pfns) for walk in told[0].walks for batch in walk.batches) == 512
    assert done.n_taken > 8 * done.n_off_lru, "the replay is not told most of what it should find"


def test_another_thread_would_be_told_from_it(told: tuple[Trace, list[ZoneSpan]]) -> None:
    assert replay(*told, RfcFixed).differences != []
