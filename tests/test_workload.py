"""Workload files: every built-in one, every way to be wrong, and a fuzz that knows two outcomes only."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.errors import InputError
from gpuscan.policy import Policy
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, PatternSpec
from gpuscan.topology import Link, MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.topology.resolve import resolve_topology
from gpuscan.units import PAGE_BYTES
from gpuscan.workload import DEFAULT_WORKLOAD, builtin_workloads, load_workload
from gpuscan.workload_model import MODELS, Workload

BUILTIN = [name for name, _ in builtin_workloads()]
GIB_PAGES = (1 << 30) // PAGE_BYTES

MINIMAL = """
shows = "one process"
[[processes]]
name = "p"
memory = "50%"
cpus_of = [0]
accesses_per_gib_s = 1000
"""


def machine(n_gib: int = 2) -> Topology:
    """Nodes 0 (CPUs, n_gib) and 2 (CXL, n_gib), and 5: CPUs without memory, next to 2."""

    def zone(start_gib: int) -> Zone:
        start = start_gib * GIB_PAGES
        n_pages = n_gib * GIB_PAGES
        return Zone("Normal", ((start, start + n_pages),), n_pages, Watermarks(100, 200, 300, 400))

    nodes = (
        Node(0, MemoryKind.DRAM, 0, cpus=(0, 1), zones=(zone(0),)),
        Node(2, MemoryKind.CXL, 1, zones=(zone(64),)),
        Node(5, MemoryKind.DRAM, 0, cpus=(2,)),
    )
    distance = np.array([[10, 20, 20], [20, 10, 12], [20, 12, 10]], dtype=np.uint8)
    return Topology("test", nodes, distance, {(0, 0): Link(100.0, 1e11)})


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


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
[source]
scan_size = "100MB"
scan_period = "1500us"
mark = "record"
only_lower_tier = false
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
        spec = load_workload(path, ["source.scan_size=25%"]).machine_spec(machine(n_gib))
        assert spec.processes[0].accesses_per_s == 1000 * n_gib
        assert spec.hint_faults.scan_bytes == n_gib << 29


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_workloads_scale(name: str) -> None:
    workload = load_workload(name)
    sizes = [process.memory for process in workload.processes] + [workload.source.scan_size]
    assert all(isinstance(size, float) for size in sizes)
    for n_gib in (8, 64):
        topology = resolve_topology(workload.topology.machine, n_gib << 30)
        total = sum(process.accesses_per_s for process in workload.machine_spec(topology).processes)
        assert total == pytest.approx(2e6 * n_gib / 64, rel=1e-3)


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


def test_a_set_cannot_smuggle_in_a_second_key() -> None:
    with pytest.raises(InputError, match="ticks must be a whole number"):
        load_workload(DEFAULT_WORKLOAD, ["ticks=3\nseed=9"])


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
    (["device=gpu"], r"device must be 'auto', 'cpu', 'reference' or 'cuda', not 'gpu'"),
    (["policy.record_format=rfcc"], r"'rfcc' is not a record format \(did you mean 'rfc'\?\)"),
    (["policy.record_format=rfc-page-ext"], r"'rfc-page-ext' is not a record format"),
    (
        ["policy.capacity_folios=100"],
        r"policy.capacity_folios: 100 may not hold one block; give at least 512",
    ),
    (["policy.rate_limit=100MB"], r"policy.rate_limit: '100MB' is not a rate"),
    (['policy.node_intervals={x="1s"}'], r"is not a value for a node"),
    (['processes.0.placement={0="20%"}'], r"the shares add up to 20.0%"),
    (["processes.0.placement=somewhere"], r"'somewhere' is not a table by node"),
    (['processes.0.cpus_of=[0,"a"]'], r"processes.0.cpus_of.1 must be a whole number"),
    (["processes.0.cpus_of=[2000]"], r"processes.0.cpus_of.0 must be below 1024"),
    (["processes.0.cpus_of=[0]", "processes.0.move_at=3s"], r"need a second node in cpus_of"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_a_wrong_value_is_one_sentence_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_workload(DEFAULT_WORKLOAD, overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_close_one_and_the_list() -> None:
    with pytest.raises(
        InputError, match=r"\(did you mean 'cxl-promote'\?\); choose one of cxl-promote, numa"
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
    with pytest.raises(InputError, match="Is a directory"):
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
        (["source.scan_period=1ns"], r"source.scan_period is 1 ns, over 10,000 times in a tick of 100 ms"),
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


def loads(path: Path, overrides: list[str] | None = None) -> None:
    """Two outcomes are right: a workload, or an InputError of one line."""
    try:
        load_workload(str(path), overrides or []).engine_policy()
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.toml"


@given(text=st.text(alphabet=st.sampled_from("abs.=[]{}\"\n#0123456789%_-,' :\\u"), max_size=80))
@settings(max_examples=150, deadline=None)
def test_fuzz_arbitrary_text(scratch: Path, text: str) -> None:
    scratch.write_text(text, encoding="utf-8")
    loads(scratch)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_fuzz_mutated_built_ins(scratch: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(BUILTIN))
    text = files("gpuscan.workloads").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.text(max_size=6)) + text[end:]
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads(scratch)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return lists and tables of values."""
    keys = st.sampled_from(["0", "1", "kind", "memory", ""])
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=2))


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(
            ["1GiB", "50%", "1s", "0s", "5MB/s", "zipf", "spill", "rfc", "9" * 40 + "s", "1970-01-01"]
        ),
    ),
    nested,
    max_leaves=4,
)


def to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08X}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{to_toml(k)} = {to_toml(v)}' for k, v in value.items())}}}"
    return repr(value)


ALL_KEYS = [
    *Workload.model_fields,
    *(
        f"{table}.{key}"
        for table in ("topology", "source", "policy", "cost")
        for key in MODELS[table].model_fields
    ),
    *(f"processes.0.{key}" for key in MODELS["processes"].model_fields),
    *(f"processes.0.pattern.{key}" for key in MODELS["pattern"].model_fields),
]


@given(key=st.sampled_from(ALL_KEYS), value=toml_values)
@settings(max_examples=400, deadline=None)
def test_fuzz_any_value_for_any_key(scratch: Path, key: str, value: Any) -> None:
    scratch.write_text(MINIMAL, encoding="utf-8")
    text = to_toml(value)
    assert tomllib.loads(f"value = {text}")
    loads(scratch, [f"{key}={text}"])
