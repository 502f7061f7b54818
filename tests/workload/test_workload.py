"""Workload files: every built-in one, and what their keys become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.errors import InputError
from gpuscan.engine.policy import Policy
from gpuscan.sim.accessed_bits import ABitSpec
from gpuscan.sim.hotness_units import HotnessUnitSpec
from gpuscan.sim.sampler import SamplerSpec
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, PatternSpec
from gpuscan.topology.resolve import resolve_topology
from gpuscan.workload.files import DEFAULT_WORKLOAD, builtin_workloads, load_workload
from workload_files import BUILTIN, GIB_PAGES, MINIMAL, machine, write


def test_there_are_at_least_five_with_a_line_each_and_the_default_is_first() -> None:
    assert BUILTIN[0] == DEFAULT_WORKLOAD
    assert set(BUILTIN) >= {"cxl-promote", "numa-rebalance", "phase-shift", "ping-pong", "uniform"}
    assert all(shows and "\n" not in shows for _, shows in builtin_workloads())


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_workload_is_valid_and_at_least_64_gib(name: str) -> None:
    workload = load_workload(name)
    assert workload.name == name
    assert workload.topology.memory is not None
    assert workload.topology.memory >= 64 << 30


def test_units_become_base_units(tmp_path: Path) -> None:
    text = """
shows = "every unit"
tick = "50ms"
ticks = 7
seed = 3
demotion = false
[topology]
machine = "host"
memory = "3TiB"
[[processes]]
name = "p"
memory = "1.5GiB"
cpus_of = [0, 5]
accesses_per_gib_s = 12.5
placement = { 0 = "25%", 2 = "75%" }
thp = true
move_at = "2s"
file = "40%"
dirty = "0.5"
exec = "1%"
[processes.pattern]
kind = "zipf"
hot = "3%"
hot_accesses = "0.7"
skew = 1
scattered = false
shift_every = "1min"
[producer]
kind = "hint-faults"
mark = "record"
only_lower_tier = false
[producer.hint_faults]
scan_size = "100MB"
scan_period = "1500us"
hot_latency = "20ms"
two_stage = true
[cost]
round = "5us"
page = "2us"
isolation_failures = "1%"
copy_failures = "2%"
[policy]
record_format = "pghot"
hz = 250
batch_pages = 64
node_intervals = { 2 = "1s" }
freq_threshold = 3
window = "3s"
drop_top_tier = false
scan_path = "dense"
capacity_folios = 4096
rate_limit = "100MB/s"
budget_pages = 10
on_refused = "drop"
backoff_ticks = 2
max_attempts = 5
"""
    workload = load_workload(write(tmp_path, text))
    assert workload.name == "mine"
    assert workload.topology.machine == "host"
    assert workload.topology.memory == 3 << 40
    assert workload.ticks == 7
    assert workload.engine_policy() == Policy(
        record_format="pghot",
        hz=250,
        batch_pages=64,
        interval_ns=50_000_000,
        node_interval_ns=((2, 1_000_000_000),),
        freq_threshold=3,
        window_ns=3_000_000_000,
        drop_top_tier=False,
        scan_path="dense",
        capacity_folios=4096,
        rate_limit_bytes_per_s=100_000_000,
        budget_pages=10,
        on_refused="drop",
        backoff_ticks=2,
        max_attempts=5,
    )
    spec = workload.machine_spec(machine())
    (process,) = spec.processes
    assert process.n_pages == 3 << 17
    assert process.cpu_nids == (0, 5)
    assert process.accesses_per_s == 12.5 * 1.5
    assert process.placement == ((0, 0.25), (2, 0.75))
    assert process.order == 9
    assert (process.move_at_ns, process.rotate_every_ns) == (2_000_000_000, 0)
    assert (process.file_share, process.dirty_share, process.exec_share) == (0.4, 0.5, 0.01)
    assert process.pattern == PatternSpec("zipf", 0.03, 0.7, 1.0, False, 60_000_000_000)
    assert spec.hint_faults == HintFaultSpec(100_000_000, 1_500_000, "record", False, 20_000_000, True)
    assert spec.cost == MigrationCostSpec(5000.0, 2000.0, 0.01, 0.02)
    assert (spec.demotion, spec.seed) == (False, 3)


def test_what_is_left_out_takes_the_defaults_of_the_library(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, MINIMAL))
    spec = workload.machine_spec(machine())
    assert workload.engine_policy() == Policy()
    assert spec == MachineSpec(spec.processes)
    assert spec.processes[0].pattern == PatternSpec()


def test_memory_is_a_share_of_the_machine_or_a_size(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_workload(path).machine_spec(machine(4)).processes[0].n_pages == 4 * GIB_PAGES
    small = load_workload(path, ["processes.0.memory=1MiB"])
    assert small.machine_spec(machine(4)).processes[0].n_pages == 256


def test_what_a_workload_does_grows_with_the_machine(tmp_path: Path) -> None:
    """Accesses and unmapped pages per page stay the same, or a large machine would show nothing."""
    path = write(tmp_path, MINIMAL)
    for n_gib in (2, 4):
        spec = load_workload(path, ["producer.hint_faults.scan_size=25%"]).machine_spec(machine(n_gib))
        assert spec.processes[0].accesses_per_s == 1000 * n_gib
        assert spec.hint_faults.scan_bytes == n_gib << 29


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_workloads_scale(name: str) -> None:
    workload = load_workload(name)
    sizes = [process.memory for process in workload.processes] + [workload.producer.hint_faults.scan_size]
    assert all(isinstance(size, float) for size in sizes)
    per_gib_s = sum(process.memory * process.accesses_per_gib_s for process in workload.processes)
    for n_gib in (144, 576):  # the smallest pool of 1,024 nodes, and a larger one
        topology = resolve_topology(workload.topology.machine, n_gib << 30)
        total = sum(process.accesses_per_s for process in workload.machine_spec(topology).processes)
        assert total == pytest.approx(per_gib_s * n_gib, rel=1e-3)


def test_a_producer_of_each_kind_in_base_units(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        MINIMAL
        + """
[producer.hint_faults]
scan_period = "adaptive"
scan_delay = "2s"
scan_period_min = "3s"
scan_period_max = "4s"
failure_feedback = true
promote_rate_limit = "5MiB/s"
free_memory_bypass = false
fault_cost = "6us"
pte_cost = "7ns"
[producer.sampler]
period = 8
min_latency = "9ns"
useless = "10%"
sample_cost = "11ns"
[producer.a_bit]
walk_size = "25%"
walk_period = "12ms"
pte_cost = "13ns"
[producer.hotness_unit]
unit_size = "2MiB"
epoch = "14ms"
threshold = 15
list_entries = 16
counter_bits = 17
downsampling = 32
entry_cost = "18ns"
interleave_ways = 12
interleave_granularity = "256B"
interrupt_at = "25%"
page_cost = "19ns"
""",
    )
    faults = load_workload(path).machine_spec(machine())
    assert faults.producer is None
    assert faults.hint_faults == HintFaultSpec(
        adaptive=True,
        scan_delay_ns=2_000_000_000,
        scan_period_min_ns=3_000_000_000,
        scan_period_max_ns=4_000_000_000,
        failure_feedback=True,
        promote_bytes_per_s=5 << 20,
        free_memory_bypass=False,
        fault_ns=6000.0,
        pte_ns=7.0,
    )
    found = {
        kind: load_workload(path, [f"producer.kind={kind}"]).machine_spec(machine()).producer
        for kind in ("sampler", "a-bit", "hotness-unit")
    }
    assert found == {
        "sampler": SamplerSpec(8, 9.0, 0.1, 11.0),
        "a-bit": ABitSpec(1 << 30, 12_000_000, 13.0),
        "hotness-unit": HotnessUnitSpec(2 << 20, 14_000_000, 15, 16, 17, 32, 18.0, 12, 256, 0.25, 19.0),
    }


def test_spill_starts_on_the_nearest_node_that_has_memory(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_workload(path).machine_spec(machine()).processes[0].placement == ((0, 1.0),)
    memoryless = load_workload(path, ["processes.0.cpus_of=[5]", "processes.0.placement=spill"])
    assert memoryless.machine_spec(machine()).processes[0].placement == ((2, 1.0),)


def test_thp_rounds_memory_down_to_huge_pages(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    workload = load_workload(path, ["processes.0.memory=5MB", "processes.0.thp=true"])
    assert workload.machine_spec(machine()).processes[0].n_pages == 1024


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ticks=3", ("ticks", 3)),
        ("tick=7ms", ("tick", 7_000_000)),
        ("tick='7ms'", ("tick", 7_000_000)),
        ('tick = "7ms"', ("tick", 7_000_000)),
        ("demotion=false", ("demotion", False)),
        ("shows=a=b", ("shows", "a=b")),
        ("topology.memory=1TiB", ("topology.memory", 1 << 40)),
        ("policy.on_refused=drop", ("policy.on_refused", "drop")),
        ("processes.0.memory=30%", ("processes.0.memory", 0.3)),
        ("processes.0.cpus_of=[1]", ("processes.0.cpus_of", (1,))),
        ("processes.0.pattern.kind=scan", ("processes.0.pattern.kind", "scan")),
    ],
)
def test_set_overrides_any_key(override: str, expected: tuple[str, Any]) -> None:
    value: Any = load_workload(DEFAULT_WORKLOAD, [override])
    for step in expected[0].split("."):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    assert value == expected[1]


def test_a_file_has_names_for_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + '[parameters]\nrounds = "ticks"\nhot = "processes.0.pattern.hot"\n')
    workload = load_workload(str(path), ["rounds=7", "hot=5%"])
    assert (workload.ticks, workload.processes[0].pattern.hot) == (7, 0.05)
    assert load_workload(str(path), ["rounds=7", "ticks=8"]).ticks == 8
    with pytest.raises(InputError, match="unknown key round;"):
        load_workload(str(path), ["round=7"])
    for text in ("parameters = 3\n" + MINIMAL, MINIMAL + "[parameters]\nrounds = 3\n"):
        with pytest.raises(InputError, match="parameters are no table of keys"):
            load_workload(str(write(tmp_path, text)))


def test_a_set_cannot_smuggle_in_a_second_key() -> None:
    with pytest.raises(InputError, match="ticks must be a whole number"):
        load_workload(DEFAULT_WORKLOAD, ["ticks=3\nseed=9"])
