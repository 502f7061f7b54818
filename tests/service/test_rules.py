"""Which rule a process goes by and why, and what a configuration may say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.service.install import shipped
from gpuscan.service.load import config_of, load_config
from gpuscan.service.rules import Facts, in_cgroup, misfit, verdict
from gpuscan.service.selection import cgroup_of

DB = Facts(7, "redis-server", "redis", 104, "/system.slice/redis-server.service")
_ANY = "(?:/[^/]+)*"
PARTS = st.sampled_from(["a", "b", "a.slice", "db.service"])
PATTERNS = st.sampled_from(["a", "b", "*", "**", "a*", "?", "*.service"])


def rules(*tables):
    return config_of("x", {"rule": [{"name": f"r{i}", **table} for i, table in enumerate(tables)]}).rule


def by_regex(path, pattern):
    parts = [
        "(?:/[^/]+)*"
        if each == "**"
        else "/" + re.escape(each).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        for each in pattern.split("/")
        if each
    ]
    return re.fullmatch("".join(parts) + _ANY, path.rstrip("/")) is not None


@settings(max_examples=40, deadline=None)
@given(st.lists(PARTS, max_size=4), st.lists(PATTERNS, max_size=4))
def test_a_pattern_names_a_cgroup_and_all_below(path, pattern):
    cgroup, wanted = "/" + "/".join(path), "/".join(pattern)
    assert in_cgroup(cgroup, wanted) == by_regex(cgroup, wanted)


def test_every_key_must_fit_and_one_pattern_of_each():
    (rule,) = rules({"unit": ["nginx*", "redis*"], "user": "redis"})
    assert misfit(rule, DB) == ""
    (other,) = rules({"unit": "redis*", "user": ["www-data", "postgres"]})
    assert misfit(other, DB) == "user is redis, not www-data or postgres"
    (number,) = rules({"user": "104"})
    assert misfit(number, DB) == ""
    (nobody,) = rules({"unit": "*.service"})
    assert misfit(nobody, Facts(1, "sh", "root", 0, "/")) == "unit is none, not *.service"


def test_the_first_that_fits_and_why_each_before_it_does_not():
    found = verdict(
        rules(
            {"command": "nginx"},
            {"cgroup": "system.slice", "exclude": {"user": ["redis"], "command": "x"}},
            {"cgroup": "system.slice/redis-*"},
            {},
        ),
        DB,
    )
    assert found.rule is not None
    assert found.rule.name == "r2"
    assert found.why == "cgroup is /system.slice/redis-server.service"
    assert found.passed == (("r0", "command is redis-server, not nginx"), ("r1", "excluded: user is redis"))
    none = verdict(rules({"command": "nginx"}), DB)
    assert (none.rule, none.why) == (None, "no rule fits, so it is left alone")
    assert verdict(rules({}), DB).why == "the rule is for all processes"


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/redis.service", "redis.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service", "user@1000.service"),
        ("/system.slice/docker-1.scope/child", "docker-1.scope"),
        ("/kubepods/pod1", ""),
        ("/", ""),
    ],
)
def test_the_unit_of_a_cgroup(cgroup, unit):
    assert Facts(1, "x", "root", 0, cgroup).unit == unit


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("0::/system.slice/a.service\n", "/system.slice/a.service"),
        ("5:cpu,memory:/jobs/a:b\n1:name=systemd:/x\n0::/\n", "/jobs/a:b"),
        ("0::/\n", "/"),
        ("0::/jobs/a\x0c0::/system.slice/b\x85\n", "/jobs/a\x0c0::/system.slice/b\x85"),
        ("", "/"),
    ],
)
def test_the_cgroup_of_a_process(text, cgroup):
    assert cgroup_of(text) == cgroup


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"srvice": {}}, "unknown key srvice (did you mean 'service'?); choose one of service, budget, rule"),
        ({"service": {"cpu": "0%"}}, "service: cpu is 0%, so that it could never look; write for example 2%"),
        ({"service": {"interval": "0s"}}, "service: interval is 0"),
        ({"service": {"batch": "0s"}}, "service: batch is 0"),
        (
            {"service": {"monitor": "dammon"}},
            "service.monitor: there is no monitor 'dammon'; choose",
        ),
        ({"service": {"quiet": ["25:00-3"]}}, "service.quiet: '25:00-3' are no hours; write for example"),
        ({"service": {"tiers": ["2"]}}, "service.tiers: --tier 2: that is not NID=TIER"),
        ({"budget": {"rate": 5}}, "budget.rate: 5 has no unit; write a string such as '100MB/s'"),
        ({"rule": [{}]}, "key rule.0.name is missing; add it"),
        ({"rule": [{"name": "a b"}]}, "rule.0.name: 'a b' is no name"),
        ({"rule": [{"name": "a"}, {"name": "a"}]}, "two rules are called 'a'; give each a name of its own"),
        ({"rule": [{"name": "a", "comand": "x"}]}, "unknown key rule.0.comand (did you mean 'command'?)"),
        (
            {"rule": [{"name": "a", "exclude": {"usr": "x"}}]},
            "unknown key rule.0.exclude.usr (did you mean 'user'?); choose one of cgroup, unit",
        ),
        (
            {"rule": [{"name": "a", "policy": "up"}]},
            "rule.0.policy must be 'promote', 'demote', 'both'",
        ),
        ({"rule": [{"name": "a", "hot": 9}]}, "rule.0.hot must be at most 7, not 9"),
        ({"rule": [{"name": "a", "hot": "2"}]}, "rule.0.hot must be a whole number, not '2'"),
        ({"rule": [{"name": "a", "nodes": []}]}, "rule.0.nodes: [] is no list of nodes"),
        ({"rule": [{"name": "a", "nodes": [-1]}]}, "rule.0.nodes: there is no node -1"),
        ({"rule": [{"name": "a", "cold_after": "1ms"}]}, "rule.0.cold_after: less than a second"),
        ({"rule": [{"name": "a", "cold_after": 3}]}, "rule.0.cold_after: 3 has no unit"),
        (
            {"rule": [{"name": "a", "command": "a-name-that-is-long"}]},
            "has more than the 15 bytes that the kernel keeps of a name; write 'a-name-that-is-'",
        ),
        ({"rule": [{"name": "a", "command": []}]}, "rule.0.command: [] is no pattern"),
        ({"rule": 3}, "rule must be a list, not 3"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_remedy(document, said):
    with pytest.raises(InputError) as refused:
        config_of("mine.toml", document)
    assert str(refused.value).startswith("mine.toml: ")
    assert said in str(refused.value)


def test_a_file_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read the configuration .*; give a TOML file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[service\n")
    with pytest.raises(InputError, match=r"bad.toml:1:9: .*; fix the TOML there"):
        load_config(tmp_path / "bad.toml")


def test_defaults_and_auto():
    config = config_of("x", {"rule": [{"name": "a"}, {"name": "b", "hot": "auto", "cold_after": "auto"}]})
    first, second = config.rule
    assert (config.service.cpu, config.service.batch, first.hot) == (0.02, 20_000_000, 2)
    assert (first.policy, first.cold_after, second.hot, second.cold_after) == (
        "both",
        30_000_000_000,
        None,
        None,
    )
    assert config.monitor_cold_ns == 10_000_000_000
    assert config_of("x", {"rule": [{"name": "a", "policy": "promote"}]}).monitor_cold_ns is None


def test_the_example_that_is_shipped_makes_sense(tmp_path: Path):
    (tmp_path / "example.toml").write_text(shipped("example.toml"))
    config = load_config(tmp_path / "example.toml")
    assert [rule.policy for rule in config.rule] == ["off", "both"]
    daemon = Facts(1, "systemd-journal", "root", 0, "/system.slice/systemd-journald.service")
    assert verdict(config.rule, daemon).rule is config.rule[0]
    assert verdict(config.rule, DB).rule is config.rule[1]
