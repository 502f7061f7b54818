"""What the kernel refuses is refused: every tunable of every design, at its bounds and beyond."""

from __future__ import annotations

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.designs.built_in.hot_list import HotList
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.machine import ArrayMachine, ZoneSpan
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.tunables import MIB, Tuning
from gpuscan.engine.policy import Policy

MS = 1_000_000
PRECISE = "pghot"
COMPACT = "pghot-compact"


def lower() -> ArrayMachine:
    return ArrayMachine([1] * 4, [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 4)], top_tier=(0,))


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        (Policy(freq_threshold=3, record_format=COMPACT), ""),
        (
            Policy(freq_threshold=4, record_format=COMPACT),
            "from 1 to 3 (PGHOT_FREQ_MAX, compact mode)",
        ),
        (Policy(freq_threshold=4), "freq_threshold from 1 to 3 (PGHOT_FREQ_MAX, compact mode), not 4; give"),
        (Policy(freq_threshold=7, record_format=PRECISE), ""),
        (Policy(freq_threshold=8, record_format=PRECISE), "from 1 to 7 (PGHOT_FREQ_MAX, precise mode)"),
        (Policy(window_ns=1000 * MS), ""),
        (Policy(window_ns=999 * MS), "policy.window from 1,000 to 3,968 ms (PGHOT_FREQ_WINDOW_MAX"),
        (Policy(window_ns=3968 * MS), ""),
        (Policy(window_ns=5000 * MS), "from 1,000 to 3,968 ms"),
        (Policy(window_ns=16_383 * MS, record_format=PRECISE), ""),
        (Policy(window_ns=16_384 * MS, record_format=PRECISE), "from 1,000 to 16,383 ms"),
        (Policy(rate_limit_bytes_per_s=MIB), ""),
        (Policy(rate_limit_bytes_per_s=MIB - 1), "rate_limit from 1 to"),
        (Policy(hz=250), ""),
        (Policy(hz=300), "300 jiffies a second (policy.hz); give a divisor of 1000"),
    ],
)
def test_section_flag_takes_what_pghot_s_records_and_sysctls_hold(policy: Policy, refused: str) -> None:
    if not refused:
        assert isinstance(make_model("section-flag", lower(), policy), SectionFlag)
        return
    with pytest.raises(InputError) as error:
        make_model("section-flag", lower(), policy)
    assert refused in str(error.value)
    assert "give " in str(error.value)


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        (Policy(freq_threshold=100), False),  # KPROMOTED_FREQ_THRESHOLD is a constant
        (Policy(window_ns=MS), False),
        (Policy(window_ns=(1 << 31) * MS), True),
        (Policy(rate_limit_bytes_per_s=1000), True),
        (Policy(hz=300), True),
    ],
)
def test_hot_list_takes_what_kpromoted_s_sysctls_hold(policy: Policy, refused: bool) -> None:
    if refused:
        with pytest.raises(InputError, match="hot-list"):
            make_model("hot-list", lower(), policy)
    else:
        make_model("hot-list", lower(), policy)


@pytest.mark.parametrize(
    ("sleep_ms", "batch", "refused"),
    [(50, 64, ""), (1000, 1024, ""), (49, None, "interval"), (1001, None, "interval"), (None, 63, "batch"),
     (None, 1025, "batch")],
)  # fmt: skip
def test_kmigrated_s_pause_and_batch(sleep_ms: int | None, batch: int | None, refused: str) -> None:
    sleep_ns = None if sleep_ms is None else sleep_ms * MS
    tuning = Tuning(Policy(), "request", sleep_ns, batch)
    for name in DESIGNS.models:
        if refused and name in ("section-flag", "section-flag-next"):
            with pytest.raises(InputError, match=f"{name} takes a {refused} from .*KMIGRATED"):
                DESIGNS.get(name).check(tuning)
        else:  # constants of their code
            DESIGNS.get(name).check(tuning)


def window_ms(name: str, policy: Policy) -> int:
    model = make_model(name, lower(), policy)
    if isinstance(model, HotList):
        return model.tunables.freq_window_ms
    assert isinstance(model, SectionFlag), f"{name} has no window"
    return model.tunables.window_ms


def test_a_window_reaches_the_designs_that_have_one() -> None:
    policy = Policy(window_ns=2000 * MS, record_format=PRECISE)
    assert window_ms("section-flag", policy) == 2000
    assert window_ms("hot-list", policy) == 2000
    # Where none was set, each has its own.
    assert window_ms("section-flag", Policy()) == 3000
    assert window_ms("section-flag", Policy(record_format=PRECISE)) == 5000
    assert window_ms("hot-list", Policy()) == 5000


def test_gpuscan_s_own_window_is_the_record_format_s() -> None:
    assert Policy(record_format=COMPACT).window_in_force_ns == 3000 * MS
    assert Policy(record_format=PRECISE).window_in_force_ns == Policy().window_in_force_ns == 5000 * MS
    assert Policy(record_format=COMPACT, window_ns=MS).window_in_force_ns == MS


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "--design", "section-flag", "--set", "policy.freq_threshold=4"), "from 1 to 3"),
        (("compare", "--designs", "section-flag", "--set", "policy.freq_threshold=4"), "from 1 to 3"),
        (("compare", "--designs", "section-flag,gpuscan", "--grid", "threshold=1,2,4"), "from 1 to 3"),
        (("compare", "--designs", "section-flag", "--grid", "batch=32,512"), "batch from 64 to 1,024 folios"),
        (
            ("compare", "--designs", "gpuscan", "--grid", "threshold=9", "--set", "producer.mark=record",
             "--set", "policy.record_format=pghot"),
            "gpuscan takes a policy.freq_threshold from 1 to 7",
        ),
    ],
)  # fmt: skip
def test_the_commands_refuse_it_in_one_sentence(
    args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--memory", "4GiB", "-q"]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
