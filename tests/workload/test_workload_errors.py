"""Workload files: every way to be wrong is one sentence with its key, its line, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.topology.resolve import resolve_topology
from gpuscan.workload.files import DEFAULT_WORKLOAD, load_workload
from workload_files import MINIMAL, machine, write

WRONG = [
    (["polcy.hz=3"], r"unknown key polcy \(did you mean 'policy'\?\)"),
    (["policy.hertz=3"], r"unknown key policy.hertz; choose one of record_format, hz"),
    (["processes.0.memroy=3GiB"], r"unknown key processes.0.memroy \(did you mean 'memory'\?\)"),
    (["processes.0.pattern.hott=3%"], r"unknown key processes.0.pattern.hott \(did you mean 'hot'\?\)"),
    (["processes.0.memory=8GB8"], r"processes.0.memory: '8GB8' is not a size"),
    (["processes.0.memory=8Gib"], r"processes.0.memory: '8Gib' has the unknown unit 'Gib'"),
    (["processes.0.memory=8"], r"processes.0.memory: 8 has no unit"),
    (["processes.0.memory=130%"], r"'130%' is not a share"),
    (["processes.3.memory=8GiB"], r"--set processes.3.memory=8GiB: processes has items 0 to 1"),
    (["processes.x.memory=8GiB"], r"not 'x'; give the position"),
    (["processes=[]"], r"processes is empty; give at least one"),
    (["ticks=many"], r"ticks must be a whole number, not 'many'"),
    (["processes.0.accesses_per_gib_s=nan"], r"processes.0.accesses_per_gib_s must be a finite number"),
    (["ticks=0"], r"ticks must be at least 1"),
    (["tick=0s"], r"tick must be above 0"),
    (["ticks"], r"--set ticks: not of the form key=value"),
    (["=3"], r"not of the form key=value"),
    (["ticks.x=1"], r"ticks is a single value"),
    (["device=gpu"], r"device must be 'auto', 'cpu', 'cuda' or 'reference', not 'gpu'"),
    (["policy.record_format=rfcc"], r"'rfcc' is not a record format \(did you mean 'rfc'\?\)"),
    (["policy.record_format=rfc-page-ext"], r"'rfc-page-ext' is not a record format"),
    (
        ["policy.capacity_folios=100"],
        r"policy.capacity_folios: 100 may not hold one block; give at least 512",
    ),
    (["policy.rate_limit=100MB"], r"policy.rate_limit: '100MB' has the unknown unit 'MB'"),
    (['policy.node_intervals={x="1s"}'], r"is not a value for a node"),
    (['processes.0.placement={0="20%"}'], r"the shares add up to 20.0%"),
    (["processes.0.placement=somewhere"], r"'somewhere' is not a table by node"),
    (['processes.0.cpus_of=[0,"a"]'], r"processes.0.cpus_of.1 must be a whole number"),
    (["processes.0.cpus_of=[2000]"], r"processes.0.cpus_of.0 must be below 1024"),
    (["processes.0.cpus_of=[0]", "processes.0.move_at=3s"], r"need a second node in cpus_of"),
    (
        ["producer.kind=ibs"],
        r"producer.kind must be 'a-bit', 'evacuate', 'hint-faults', 'hotness-unit' or 'sampler'",
    ),
    (["producer.hint_fault.two_stage=true"], r"unknown key producer.hint_fault \(did you mean 'hint_faults'"),
    (["producer.a_bit.period=1s"], r"unknown key producer.a_bit.period \(did you mean 'walk_period'\?\)"),
    (["producer.hint_faults.scan_period=0s"], r"scan_period: a scanner that never pauses"),
    (["producer.hint_faults.scan_period=often"], r"scan_period: 'often' is not a time.* or 'adaptive'"),
    (["producer.hint_faults.scan_period=3"], r"scan_period: 3 has no unit.* or 'adaptive'"),
    (["producer.hint_faults.scan_period_max=1ms"], r"scan_period_min \(1 s\) and scan_period_max \(1 ms\)"),
    (["producer.hint_faults.scan_period_min=1us"], r"give the first 1ms or more"),
    (["producer.hint_faults.hot_latency=1us"], r"hot_latency is 1 us, and faults are timed in milliseconds"),
    (["producer.hint_faults.failure_feedback=true"], r"give scan_period = 'adaptive' too"),
    (["producer.sampler.period=0"], r"producer.sampler.period must be at least 1"),
    (["producer.sampler.useless=1"], r"producer.sampler.useless: 1 has no unit"),
    (["producer.a_bit.walk_period=0s"], r"producer.a_bit.walk_period must be above 0"),
    (
        ["producer.hotness_unit.unit_size=3MiB"],
        r"unit_size: 3 MiB is not a power of two from 4 KiB to 2 GiB",
    ),
    (["producer.hotness_unit.unit_size=4GiB"], r"give one, such as 2MiB"),
    (["producer.hotness_unit.interleave_ways=5"], r"give one of 1, 2, 3, 4, 6, 8, 12, 16"),
    (["producer.hotness_unit.interleave_granularity=32KiB"], r"from 256 B to 16 KiB; give one, such as 4KiB"),
    (["producer.hotness_unit.downsampling=3"], r"downsampling: 3 is not a power of two"),
    (
        ["producer.hotness_unit.threshold=256", "producer.hotness_unit.counter_bits=8"],
        r"producer.hotness_unit: a counter of 8 bits never reaches the threshold 256",
    ),
    (
        ["source.kind=trace", "source.trace=mem.txt", "producer.kind=sampler"],
        r"producer.kind = 'sampler' watches processes, and the samples of a trace",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_a_wrong_value_is_one_sentence_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_workload(DEFAULT_WORKLOAD, overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_close_one_and_the_list() -> None:
    with pytest.raises(
        InputError,
        match=r"\(did you mean 'cxl-promote'\?\); choose one of cxl-interleave, cxl-promote, evacuate, numa",
    ):
        load_workload("cxl-promot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('shows = "x"\nticks = = 3\n', r"mine\.toml:2:9: Invalid value"),
        ('shows = "x', r"mine\.toml: .*end of document"),
        ("a = 1\na = 2\n", r"mine\.toml:2:\d+: Cannot overwrite"),
        (f"ticks = {'9' * 5000}", r"mine\.toml: TOML that cannot be read"),
        (f"ticks = {'[' * 5000}", r"mine\.toml: "),
        (
            MINIMAL + MINIMAL.partition("\n")[2].partition("\n")[2],
            r"mine\.toml: two processes are named 'p'; give each a name of its own",
        ),
        (MINIMAL.replace('shows = "one process"', ""), r"mine\.toml: key shows is missing"),
        (MINIMAL.replace("cpus_of = [0]", ""), r"mine\.toml: key processes.0.cpus_of is missing"),
        (f'"a\\nb" = 1\n{MINIMAL}', r"mine\.toml: unknown key 'a\\nb'; choose"),
        ('shows = "x"\nprocesses = 3', r"mine\.toml: processes must be a list, not 3"),
        ('shows = "x"\nprocesses = [3]', r"mine\.toml: processes.0 must be a table, not 3"),
    ],
)
def test_a_broken_file_is_named_with_line_or_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_workload(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_workload(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match="is a directory, not a file"):
        load_workload(str(tmp_path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_workload(str(binary))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["processes.0.cpus_of=[7]"], r"processes.0.cpus_of.0: topology .* has no node 7"),
        (['processes.0.placement={ 9="100%" }'], r"processes.0.placement: topology .* has no node 9"),
        (['policy.node_intervals={ 9="1s" }'], r"policy.node_intervals: topology .* has no node 9"),
        (
            ["processes.0.cpus_of=[2]"],
            r"cpus_of.0: node 2 of topology test has no CPUs; use one of 0, 5",
        ),
        (
            ['processes.0.placement={5="100%"}'],
            r"placement.5: node 5 .* has no memory; use one of 0, 2",
        ),
        (["processes.0.memory=5GiB"], r"the processes want 5 GiB of memory, topology test has 4 GiB"),
        (["processes.0.memory=1B"], r"processes.0.memory: 1 B is not even one page"),
        (["processes.0.memory=1MiB", "processes.0.thp=true"], r"not even one page of 2 MiB"),
        (
            ["tick=1h", "processes.0.accesses_per_gib_s=1000000"],
            r"7.2 G accesses in a tick of 3600 s, and 1 G can be simulated; lower tick or",
        ),
        (["processes.0.accesses_per_gib_s=1e12"], r"lower tick or processes.\*.accesses_per_gib_s"),
        (
            ["producer.hint_faults.scan_period=1ns"],
            r"producer.hint_faults.scan_period is 1 ns, over 10,000 times in a tick of 100 ms",
        ),
        (
            ["producer.kind=a-bit", "producer.a_bit.walk_period=1us"],
            r"producer.a_bit.walk_period is 1 us, over 10,000 times in a tick of 100 ms",
        ),
        (
            ["tick=10s", "producer.kind=hotness-unit", "producer.hotness_unit.epoch=1us"],
            r"producer.hotness_unit.epoch is 100 us, over 10,000 times",
        ),
        (
            ["processes.0.pattern.shift_every=1us"],
            r"raise processes.0.pattern.shift_every or lower tick",
        ),
        (["processes.0.cpus_of=[0, 5]", "processes.0.rotate_every=1us"], r"processes.0.rotate_every is 1 us"),
    ],
)
def test_what_the_machine_does_not_have(tmp_path: Path, overrides: list[str], message: str) -> None:
    workload = load_workload(write(tmp_path, MINIMAL), overrides)
    with pytest.raises(InputError, match=message):
        workload.machine_spec(machine())


@pytest.mark.parametrize("read", [load_workload, resolve_topology])
def test_a_name_longer_than_a_files_can_be_is_an_unknown_one(read):
    with pytest.raises(InputError, match=r"unknown (workload|topology) 'a+'; choose one of"):
        read("a" * 5000)
