"""``gpuscan run --trace`` as a user meets it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from gpuscan.cli.main import main
from gpuscan.store.plan_file import read_plans
from gpuscan.topology.resolve import resolve_topology
from hosts import HOST

N_PAGES = 3000


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trace in which CPU 0 accesses each of 3,000 CXL pages of a 1 GiB machine twice, in 2 s."""
    first = resolve_topology("two-socket-cxl", 1 << 30).node(2).zones[0].present[0][0]
    path = tmp_path_factory.mktemp("t") / "mem.txt"
    lines = [
        f"[000] {second:5d}.{page * 300:06d}: {page % 500:16d}{first + page << 12:16x}\n"
        for second in (100, 101)
        for page in range(N_PAGES)
    ]
    path.write_text("".join(lines) + f"[001] {102:5d}.000000: {5:16d}{0:16x}\n")
    return path


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["run", *args, "--json", "--quiet", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def test_the_pages_of_a_trace_are_promoted(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    document = run_json(capsys, "--trace", str(trace), "--memory", "1GiB", "--out", str(out))
    assert document["workload"]["name"] == "mem.txt"
    assert document["workload"]["ticks"] == document["summary"]["n_ticks"] == 19  # 0 s to 1.8997 s
    assert document["ledger"]["requested"] == document["ledger"]["migrated"] == N_PAGES
    assert document["summary"]["fast"]["before"] == 0.0
    assert document["summary"]["fast"]["after"] == 1.0
    assert document["summary"]["metrics"]["accesses"] == 2 * N_PAGES
    assert document["summary"]["metrics"]["samples_unresolved"] == 1
    (note,) = document["notes"]
    assert note.endswith("on 3,000 pages; left out: 1 at physical address 0")
    assert len(read_plans(out / "plan.parquet")) == N_PAGES


def test_room_is_reserved_when_the_trace_was_read(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bar at a time."""
    where = ("--residency", "index", "--records-dir", str(tmp_path))
    assert main(["run", "--trace", str(trace), "--memory", "1GiB", "--device", "cpu", "--json", *where]) == 0
    said = capsys.readouterr().err
    assert 0 <= said.rindex("reading mem.txt") < said.index("reserving room for the records")


def test_ticks_cut_it_and_a_preset_is_a_machine(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--trace", str(trace), "--memory", "1GiB", "--machine", "two-socket-cxl", "--ticks", "3")
    document = run_json(capsys, *args, "--set", "producer.mark=record", "--set", "policy.freq_threshold=1")
    assert document["summary"]["n_ticks"] == 3
    assert document["machine"]["topology"] == "two-socket-cxl"
    assert 0 < document["ledger"]["requested"] < N_PAGES


def test_a_workload_file_may_name_its_trace(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""
        shows = "a trace"
        [topology]
        machine = "two-socket-cxl"
        memory = "1GiB"
        [source]
        kind = "trace"
        trace = {json.dumps(str(trace))}
        min_weight = 250
        """
    )
    document = run_json(capsys, str(path))
    # Weights run from 0 to 499, so that half of the samples are as heavy.
    assert document["summary"]["metrics"]["accesses"] == N_PAGES
    assert document["summary"]["metrics"]["samples_light"] == N_PAGES
    assert document["workload"]["shows"] == "a trace"


def test_a_damo_record_on_a_captured_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regions = [{"start": "0", "end": "24 GiB", "nr_accesses": {"samples": 3}}]
    snapshots = [{"end_time": f"{second} s", "regions": regions} for second in (1, 2)]
    path = tmp_path / "damon.data"
    path.write_bytes(zlib.compress(json.dumps([{"snapshots": snapshots}]).encode()))
    document = run_json(capsys, "--trace", str(path), "--machine", str(HOST), "--split-cxl", "99%")
    assert document["ledger"]["requested"] > 0
    assert document["summary"]["n_ticks"] == 11
    metrics = document["summary"]["metrics"]
    assert "accesses_local" not in metrics
    assert metrics["pages_unmovable"] > 0
    assert metrics["marks"] == metrics["accesses"] - metrics["pages_at_home"]


SMALL_CXL = """
[[nodes]]
nid = 0
kind = "cxl"
[[nodes.zones]]
name = "Normal"
present = [[1048576, 1179648]]
[[nodes]]
nid = 1
cpus = "0-63"
[[nodes.zones]]
name = "Normal"
present = [[2097152, 2228224]]
"""
SPE_EVENTS = ("l1d-miss", "l1d-access", "llc-access", "tlb-access", "remote-access", "memory")
TRACEPOINT = (
    "  kdamond.0  4000 [000]  820.{us:06d}: damon:damon_aggregated: "
    "target_id=0 nr_regions=2 {start}-{end}: {n} 5\n"
)
NEAR, FAR = 1 << 32, (1 << 32) + (400 << 20)


def regions_of(*rows: tuple[int, int, int]) -> str:
    """Return text of DAMON's tracepoint of regions of (start, end, accesses)."""
    return "".join(
        TRACEPOINT.format(us=place, start=start, end=end, n=n) for place, (start, end, n) in enumerate(rows)
    )


def record_of(*rows: tuple[int, int, int]) -> str:
    """Return a record of damo that does not say its intervals, of the same."""
    regions = [{"start": start, "end": end, "nr_accesses": {"samples": n}} for start, end, n in rows]
    return json.dumps([{"intervals": None, "snapshots": [{"end_time": 1, "regions": regions}]}])


@pytest.mark.parametrize(
    ("text", "settings", "requested", "says"),
    [
        # An access that Arm SPE says as six events is one, also with all that perf can print beside it.
        (
            "".join(
                f"    stream  77/78  [034]  5496.{ns:09d}:          1 {event:>14}: {12:16d} {FAR + 64:16x}\n"
                for ns in (733_475_120,)
                for event in SPE_EVENTS
            ),
            ("producer.mark=record",),
            0,
            "1 sample over 0 ns on 1 page; left out: 5 lines that say an access once more",
        ),
        # A period before an event's name is no weight.
        (
            "".join(
                f"stream 77 [003]  1.{us:06d}: {100_003:10d}      mem-loads: {FAR + (us << 12):16x}\n"
                for us in range(3)
            ),
            (),
            3,
            "3 samples over 2 us on 3 pages",
        ),
        # Regions that few looks found accessed, where the text does not say how many looks there were.
        (regions_of((NEAR, FAR, 2), (FAR, FAR + (1 << 20), 20)), (), 256, "aggregations of 20 looks"),
        (
            record_of((NEAR, FAR, 2), (FAR, FAR + (1 << 20), 20)),
            (),
            256,
            "as many looks as the most accessed",
        ),
        # A process whose stack lies where this machine has a hole, since it has 32 bits.
        (
            record_of((FAR, FAR + (1 << 20), 20), (0xFFF0_0000, 0xFFFF_0000, 3)),
            (),
            256,
            "physical ones, but accesses where the machine has no memory are a sign of a process's own",
        ),
    ],
)
def test_what_formats_say_in_other_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    settings: tuple[str, ...],
    requested: int,
    says: str,
) -> None:
    (tmp_path / "m.toml").write_text(SMALL_CXL)
    (tmp_path / "t").write_text(text)
    options = [word for setting in settings for word in ("--set", setting)]
    document = run_json(
        capsys, "--trace", str(tmp_path / "t"), "--machine", str(tmp_path / "m.toml"), *options
    )
    assert document["ledger"]["requested"] == requested
    assert says in document["notes"][0]


def test_the_tracepoint_of_a_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.toml").write_text(SMALL_CXL)
    (tmp_path / "t").write_text(regions_of((NEAR, FAR, 20), (1 << 47, (1 << 47) + 4096, 0)))
    said = refused(capsys, "--trace", str(tmp_path / "t"), "--machine", str(tmp_path / "m.toml"))
    assert "a region begins at 128 TiB, and the memory of 'm' ends at" in said


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["run", *args, "--device", "cpu", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpuscan: error: ")
    assert err.count("\n") == 1
    return err


def test_what_is_wrong_with_a_trace_is_one_sentence(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.txt"
    lines = trace.read_text().splitlines(keepends=True)
    bad.write_text("".join(lines)[:-3])
    assert f"bad.txt:{len(lines)}: the trace ends in the middle" in refused(capsys, "--trace", str(bad))
    lines[7], lines[8] = lines[8], lines[7]
    bad.write_text("".join(lines))
    assert "bad.txt:9: the line is earlier" in refused(capsys, "--trace", str(bad), "--memory", "1GiB")
    bad.write_bytes(HOST.joinpath("zarr.json").read_bytes())
    assert "bad.txt: the document is not a list" in refused(capsys, "--trace", str(bad))
    assert "No such file" in refused(capsys, "--trace", str(tmp_path / "true"))
    assert "not a file, and a trace is read twice" in refused(capsys, "--trace", str(tmp_path))
    assert "nothing to promote" in refused(capsys, "--trace", str(trace), "--machine", "two-socket")
    heavy = ("--memory", "1GiB", "--set", "source.min_weight=500")
    assert "6,000 below source.min_weight" in refused(capsys, "--trace", str(trace), *heavy)
    assert "unknown" in refused(capsys, "--trace", str(trace), "--machine", "three-socket")
    assert "go together" in refused(capsys, "--set", "source.kind=trace")


def test_a_trace_is_its_own_producer(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--trace", str(trace), "--producer", "hint-faults")
    assert "leave out --producer or the trace" in said


def test_the_machine_that_nobody_named_is_noted(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["run", "--trace", str(trace), "--memory", "1GiB", "--ticks", "1", "--device", "cpu"]
    said = "replayed on the workload's machine, two-socket-cxl, and not"
    for machine, expected in (
        ([], True),
        (["--machine", "two-socket-cxl"], False),
        (["--set", "topology.machine=two-socket-cxl"], False),
    ):
        assert main([*args, *machine]) == 0
        assert (said in capsys.readouterr().err) == expected
