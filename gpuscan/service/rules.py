"""Which rule a process goes by, and why each one before it does not fit: text in, words out, no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gpuscan.service.config import Rule, Who

_ANY = "**"
_UNITS = (".service", ".scope")


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules ask of a process.

    Attributes:
        pid: of it.
        command: its name as the kernel keeps it, up to 15 bytes.
        user: who runs it, by name; its number where it has none.
        uid: that number.
        cgroup: its path below the top of the hierarchy, ``/`` for the top.
    """

    pid: int
    command: str
    user: str
    uid: int
    cgroup: str

    @property
    def unit(self) -> str:
        """The unit of systemd that it belongs to; empty for none.

        The first of its path: cgroups below may be delegated, and then their names are anybody's choice.
        """
        return next((part for part in self.cgroup.split("/") if part.endswith(_UNITS)), "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which rule a process goes by.

    Attributes:
        rule: the first that fits; None where none does.
        passed: name of each rule before that, and why it does not fit.
        why: why that one does.
    """

    rule: Rule | None
    passed: tuple[tuple[str, str], ...]
    why: str


def verdict(rules: Sequence[Rule], facts: Facts) -> Verdict:
    """Return the first rule that fits a process."""
    passed: list[tuple[str, str]] = []
    for rule in rules:
        why_not = misfit(rule, facts)
        if not why_not:
            return Verdict(rule, tuple(passed), _fits(rule, facts))
        passed.append((rule.name, why_not))
    return Verdict(None, tuple(passed), "no rule fits, so it is left alone")


def misfit(rule: Rule, facts: Facts) -> str:
    """Return why a rule does not fit a process; empty where it does."""
    for key, said in _said(facts).items():
        patterns = getattr(rule, key)
        if patterns and not _one_fits(key, patterns, facts):
            return f"{key} is {said}, not {' or '.join(patterns)}"
    excluded = _excluded(rule.exclude, facts)
    return f"excluded: {excluded}" if excluded else ""


def _excluded(who: Who, facts: Facts) -> str:
    """Return which key of an ``exclude`` fits; any one of them is enough."""
    for key, said in _said(facts).items():
        patterns = getattr(who, key)
        if patterns and _one_fits(key, patterns, facts):
            return f"{key} is {said}"
    return ""


def _fits(rule: Rule, facts: Facts) -> str:
    said = [f"{key} is {value}" for key, value in _said(facts).items() if getattr(rule, key)]
    return ", ".join(said) or "the rule is for all processes"


def _said(facts: Facts) -> dict[str, str]:
    return {
        "cgroup": facts.cgroup,
        "unit": facts.unit or "none",
        "command": facts.command,
        "user": facts.user,
    }


def _one_fits(key: str, patterns: Sequence[str], facts: Facts) -> bool:
    if key == "cgroup":
        return any(in_cgroup(facts.cgroup, pattern) for pattern in patterns)
    if key == "user":
        return any(fnmatchcase(facts.user, each) or each == str(facts.uid) for each in patterns)
    return any(fnmatchcase(getattr(facts, key), pattern) for pattern in patterns)


def in_cgroup(path: str, pattern: str) -> bool:
    """Whether a cgroup is one that a pattern names, or below one.

    Args:
        path: below the top, ``/system.slice/db.service``.
        pattern: ``*`` stands for a part of a name, ``**`` for any number of names.
    """
    names = [name for name in path.split("/") if name]
    wanted = [name for name in pattern.split("/") if name]
    # places[i]: the first i names of the path can be what the pattern so far names.
    places = {0}
    for each in wanted:
        if each == _ANY:
            places = set(range(min(places, default=len(names) + 1), len(names) + 1))
        else:
            places = {i + 1 for i in places if i < len(names) and fnmatchcase(names[i], each)}
    return bool(places)
