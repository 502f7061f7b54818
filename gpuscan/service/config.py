"""What a configuration of the service may say: typed, checked, every string with a unit in base units.

Keys carry no unit, their values do (``interval = "100ms"``). docs/service.md lists every key; each but the
``name`` of a rule has a default.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gpuscan.base.addresses import parse_address
from gpuscan.base.errors import InputError
from gpuscan.base.node_tiers import parse_tiers
from gpuscan.base.units import parse_bytes, parse_time_ns
from gpuscan.base.values import Bytes, Model, Rate, Share, TimeNs
from gpuscan.monitors.catalogue import AUTO, MONITORS
from gpuscan.monitors.treatment import Shared
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.service.helpers.catalogue import ANY, HELPERS, OWN
from gpuscan.service.helpers.combining import helped
from gpuscan.service.hours import Hours, parse_hours

COMMAND_BYTES = 15
"""A command's name has so many bytes at most in the kernel (TASK_COMM_LEN, include/linux/sched.h)."""
MOST_LOOKS = 7
"""A record counts so many accesses at most."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_GLOB = "*?["


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError(f"{value!r} is no pattern; write a string, or a list of strings")
    return tuple(value)


def _hours(value: Any) -> Any:
    return tuple(map(parse_hours, _listed(value))) if value != [] else ()


def _cold_after(value: Any) -> Any:
    if value == AUTO:
        return None
    if not isinstance(value, str):
        raise ValueError(f'{value!r} has no unit; write a string such as "30s", or "auto"')
    return parse_time_ns(value)


def _hot(value: Any) -> Any:
    return None if value == AUTO else value


Looks = Annotated[int, Field(ge=1, le=MOST_LOOKS)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Patterns of the shell (``*``, ``?``, ``[...]``), one of which must fit."""


class Who(Model):
    """Which processes: each key that is given must fit, and of a key one of its patterns."""

    cgroup: Patterns = ()
    unit: Patterns = ()
    command: Patterns = ()
    user: Patterns = ()

    @field_validator("command")
    @classmethod
    def _command_can_fit(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if len(pattern.encode()) > COMMAND_BYTES and not set(pattern) & set(_GLOB):
                raise ValueError(
                    f"{pattern!r} has more than the {COMMAND_BYTES} bytes that the kernel keeps of a name; "
                    f"write {pattern.encode()[:COMMAND_BYTES].decode(errors='ignore')!r}"
                )
        return patterns


class Rule(Who):
    """A rule: which processes, and what is done with their memory.

    Attributes:
        name: of the rule, and of its policy in ``status`` and in the history.
        exclude: processes that it is not for, though they fit.
        policy: whether hot pages go up, cold ones down, both, or nothing is done.
        rate: most that moves, all its processes together; None without limit.
        nodes: nodes that pages may go to; () for all.
        hot: looks that must find a page accessed; None = ``auto``.
        cold_after: how long a page must not have been accessed, ns; None = ``auto``.
        shared: whether pages that others map, too, move.
        backend: who moves them: gpuscan, a helper of the kernel, or whichever helper can.
    """

    name: str
    exclude: Who = Who()
    policy: Literal["promote", "demote", "both", "off"] = "both"
    rate: Rate | None = None
    nodes: Annotated[tuple[int, ...], BeforeValidator(lambda value: _nodes(value))] = ()
    hot: Annotated[Looks | None, BeforeValidator(_hot)] = 2
    cold_after: Annotated[int | None, BeforeValidator(_cold_after)] = parse_time_ns("30s")
    shared: Shared = "watched"
    backend: str = OWN

    @field_validator("name")
    @classmethod
    def _name_can_be_said(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name; write up to 64 of letters, digits, '_', '.' and '-'")
        return name

    @field_validator("backend")
    @classmethod
    def _backend_is_there(cls, name: str) -> str:
        names = [OWN, ANY, *HELPERS.names]
        if name not in names:
            raise ValueError(f"there is no backend {name!r}; choose one of {', '.join(names)}")
        return name

    @field_validator("cold_after")
    @classmethod
    def _cold_takes_a_while(cls, value: int | None) -> int | None:
        if value is not None and value < COLD_AFTER_NS_MIN:
            raise ValueError("less than a second says nothing about a page; write 1s or more")
        return value

    @property
    def is_own(self) -> bool:
        """Whether gpuscan itself carries it out, and not the kernel."""
        return self.backend == OWN

    @property
    def promotes(self) -> bool:
        """Whether hot pages go up."""
        return self.policy in ("promote", "both")

    @property
    def demotes(self) -> bool:
        """Whether cold pages go down."""
        return self.policy in ("demote", "both")


HISTORY_BYTES_MIN = 4 << 20
COLD_AFTER_NS_MIN = 1_000_000_000


def _nodes(value: Any) -> Any:
    if not isinstance(value, list) or not value or not all(type(one) is int for one in value):
        raise ValueError(f"{value!r} is no list of nodes; write for example [0, 1]")
    for nid in value:
        if not 0 <= nid < N_NODES_MAX:
            raise ValueError(f"there is no node {nid}; give numbers from 0 to {N_NODES_MAX - 1}")
    return tuple(dict.fromkeys(value))


def _tiers(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f'{value!r} is no list of tiers; write for example ["2=1"]')
    try:
        parse_tiers(value)
    except InputError as error:
        raise ValueError(str(error)) from error
    return tuple(value)


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no place to listen at; write for example "127.0.0.1:9464"')
    try:
        return parse_address(value) if value else None
    except InputError as error:
        raise ValueError(str(error)) from error


class Settings(Model):
    """What holds for the service as a whole.

    Attributes:
        monitor: who tells what is accessed.
        interval: pause between two looks while pages move.
        cpu: ceiling for gpuscan's own share of a core.
        batch: ceiling for how long one call may hold up a process.
        quiet: hours, of the machine's local time, in which nothing is looked at or moved.
        group: whose members may use ``gpuscan ctl``, beside root; "" for nobody.
        history: most that the history takes on the disk; 0 keeps none.
        tiers: that nodes are put into, whatever the kernel says.
        metrics: where metrics are served, as address and port; None for nowhere.
    """

    monitor: str = AUTO
    interval: TimeNs = parse_time_ns("100ms")
    cpu: Share = 0.02
    batch: TimeNs = parse_time_ns("20ms")
    quiet: Annotated[tuple[Hours, ...], BeforeValidator(_hours)] = ()
    group: str = ""
    history: Bytes = parse_bytes("64MiB")
    tiers: Annotated[tuple[str, ...], BeforeValidator(_tiers)] = ()
    metrics: Annotated[tuple[str, int] | None, Field(strict=False), BeforeValidator(_address)] = None

    @field_validator("monitor")
    @classmethod
    def _monitor_is_there(cls, name: str) -> str:
        names = [AUTO, *MONITORS.names]
        if name not in names:
            raise ValueError(f"there is no monitor {name!r}; choose one of {', '.join(names)}")
        return name

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if not self.interval:
            raise ValueError("interval is 0, so that it would look all the time; write for example 100ms")
        if not self.cpu:
            raise ValueError("cpu is 0%, so that it could never look; write for example 2%")
        if not self.batch:
            raise ValueError("batch is 0, so that nothing could move; write for example 20ms")
        if 0 < self.history < HISTORY_BYTES_MIN:
            raise ValueError("history is less than its log takes; write 4MiB or more, or 0B for none")
        return self


class Budget(Model):
    """What all policies share: ``rate``, of all that moves; None without limit."""

    rate: Rate | None = None


class Config(Model):
    """A configuration. The first rule that fits a process is its own; what none fits is left alone."""

    service: Settings = Settings()
    budget: Budget = Budget()
    rule: Annotated[tuple[Rule, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _rules_have_names_of_their_own(self) -> Self:
        twice = [name for name, n in Counter(rule.name for rule in self.rule).items() if n > 1]
        if twice:
            raise ValueError(f"two rules are called {twice[0]!r}; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _the_kernel_can_help(self) -> Self:
        try:
            helped(self)
        except InputError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def own_rate(self) -> int | None:
        """What is left of ``budget.rate`` for the rules that gpuscan carries out; None without limit."""
        taken = sum(rule.rate or 0 for rule in self.rule if not rule.is_own)
        return None if self.budget.rate is None else self.budget.rate - taken

    @property
    def monitor_cold_ns(self) -> int | None:
        """What the monitor is to call cold: the least that a rule says; None where nothing is to go down."""
        found = [
            COLD_AUTO_NS[0] if rule.cold_after is None else rule.cold_after
            for rule in self.rule
            if rule.demotes and rule.is_own
        ]
        return min(found, default=None)


COLD_AUTO_NS = (10_000_000_000, 600_000_000_000)
"""Between what ``cold_after = "auto"`` goes: shorter while there is no room above, longer while there is."""
