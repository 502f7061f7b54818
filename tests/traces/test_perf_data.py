"""perf.data: read through the host's perf, of which a stand-in has the place here, or advice without one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.traces import open_trace
from trace_texts import CASES

SCRIPT = """#!/bin/sh
[ "$PERF_CONFIG" = /dev/null ] || exit 9
[ "$(ulimit -v)" != unlimited ] || sleep 0.2
[ "$(ulimit -v)" = 4194304 ] || exit 8
case "$1 $2 $4 $5 $6" in
    "evlist -i   ") echo "EVENT" ;;
    SCRIPT) cat TEXT; exit ENDED ;;
    *) echo "$@" >&2; exit 7 ;;
esac
"""


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "perf.data"
    path.write_bytes(b"PERFILE2" + bytes(99))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("gpuscan.traces.built_in.perf_data._perf", lambda: str(tmp_path / "bin/perf"))
    return path


def perf(recording: Path, event: str, options: str, text: str, ended: int = 0) -> None:
    """Let the host have a perf that says this of a recording."""
    place = recording.parent / "bin/perf"
    place.parent.mkdir(exist_ok=True)
    (place.parent / "text").write_text(text)
    script = SCRIPT.replace("EVENT", event).replace("SCRIPT", f'"script -i {options}"')
    place.write_text(script.replace("TEXT", f"'{place.parent}/text'").replace("ENDED", str(ended)))
    place.chmod(place.stat().st_mode | stat.S_IXUSR)


def test_samples_of_perf(recording: Path) -> None:
    perf(recording, "cpu/mem-loads/P", "--ns -F cpu,time,weight,phys_addr", "[003] 1.000000001: 7 1000\n")
    trace = open_trace(recording)
    assert (trace.kind, trace.format.knows_cpus) == ("perf-data", True)
    seen: list[int] = []
    (block,) = trace.blocks(seen.append)
    assert (block.time_ns.tolist(), block.cpu.tolist(), block.pfn.tolist()) == ([1_000_000_001], [3], [1])
    assert sum(seen) == recording.stat().st_size


def test_regions_of_damo(recording: Path) -> None:
    perf(recording, "damon:damon_aggregated", "  ", CASES["tracepoint"].text)
    trace = open_trace(recording)
    assert (trace.format.knows_cpus, trace.format.noun) == (False, "accessed region")
    (block,) = trace.blocks()
    assert (block.pfn.tolist(), block.n_idle) == ([1 << 20], 1)


def test_what_is_given_of_regions_of_damo(recording: Path) -> None:
    perf(recording, "damon:damon_aggregated", "  ", CASES["tracepoint"].text)
    pages = recording.parent / "pages.csv"
    pages.write_text("virtual_page,pfn\n0x100001,7\n")
    trace = open_trace(recording, {"looks": "4", "pages": str(pages)})
    (block,) = trace.blocks()
    assert block.share is not None
    assert (block.pfn.tolist(), block.share.tolist(), trace.format.is_virtual) == ([7], [0.75], False)


def test_what_perf_cannot_read_is_said(recording: Path) -> None:
    options = "--ns -F cpu,time,weight,phys_addr"
    perf(recording, "cycles", options, "[003] 1.000000001: 7 1000\n", ended=3)
    with pytest.raises(
        InputError,
        match=r"perf script ended with 3, and that is not all of it, so turn it into text: perf script",
    ):
        list(open_trace(recording).blocks())
    perf(recording, "cycles", "another", "")
    with pytest.raises(InputError, match="perf script ended with 7"):
        list(open_trace(recording).blocks())
    (recording.parent / "bin/perf").write_text("#!/bin/sh\nexit 5\n")
    with pytest.raises(InputError, match=r"perf evlist ended with 5, so turn it into text"):
        open_trace(recording)


def test_without_perf_advice_is_given(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuscan.traces.built_in.perf_data._perf", lambda: None)
    with pytest.raises(
        InputError, match="is perf's own recording; there is no perf here to read it, so turn it"
    ):
        open_trace(recording)
