"""Which helper may carry out which rule of a configuration, and why none may: words, no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_bytes
from gpuscan.monitors.catalogue import MONITORS
from gpuscan.service.helpers.catalogue import ANY, HELPERS, OWN

if TYPE_CHECKING:
    from gpuscan.service.config import Config, Rule, Who
    from gpuscan.service.helpers.contract import HelperKind

_CHOOSING = ("cgroup", "unit", "command", "user")
_OF_EACH = {"name", "policy", "backend"}


def helped(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the helpers that may carry out a rule, the most wanted first, by name of the rule.

    Raises:
        InputError: a rule asks for a helper that cannot carry it out, alone or beside the others.
    """
    found: dict[str, tuple[str, ...]] = {}
    for place, rule in enumerate(config.rule):
        if rule.backend == OWN:
            continue
        names, refused = [], []
        for name in _asked_for(rule):
            why = _why_not(name, config, place)
            if why:
                refused.append(f"{name}: {why}")
            else:
                names.append(name)
        if not names:
            raise InputError(f"rule {rule.name} cannot be carried out by the kernel: {'; '.join(refused)}")
        found[rule.name] = tuple(names)
    _check_budget(config, found)
    return found


def _asked_for(rule: Rule) -> list[str]:
    if rule.backend != ANY:
        return [rule.backend]
    kinds, _ = HELPERS.usable()
    return sorted(kinds, key=lambda name: (kinds[name].place, name))


def _why_not(name: str, config: Config, place: int) -> str:
    """Return why a helper cannot carry out one rule of a configuration; empty where it can."""
    kind, rule = HELPERS.get(name), config.rule[place]
    if rule.policy == "off":
        return 'policy = "off" leaves alone, so there is nothing to carry out; leave backend out'
    unknown = sorted(rule.model_fields_set - {*_OF_EACH, *_CHOOSING, "exclude"} - kind.goes_by)
    if unknown:
        return f"it knows nothing of {unknown[0]}; leave that out, or let gpuscan move them"
    if why := _why_not_apart(kind, config, place):
        return why
    if config.service.tiers and not kind.heeds_tiers:
        return "it goes by the kernel's own tiers, not by service.tiers; leave those out"
    monitor = config.service.monitor
    if kind.alone is not None and monitor in MONITORS and kind.alone in _rights(monitor):
        return f"it needs for itself what service.monitor = {monitor!r} needs, too; take another monitor"
    return kind.misfit(rule)


def _why_not_apart(kind: HelperKind, config: Config, place: int) -> str:
    """Return why a helper cannot tell the processes of a rule from those of others; empty where it can."""
    rules = config.rule
    if not kind.chooses_by:
        if by := chosen_by(rules[place]):
            return f"it is one for all processes, and {min(by)} is for some; let gpuscan move them"
        others = [one.name for one in rules if one.name != rules[place].name]
        return (
            f"it is one for all processes, and rule {others[0]} is for some; leave one out" if others else ""
        )
    known = ", ".join(sorted(kind.chooses_by))
    for each in rules[: place + 1]:
        if by := chosen_by(each) - kind.chooses_by:
            return (
                f"it tells processes apart by {known}, and rule {each.name} by {min(by)}; choose by {known}"
            )
    return ""


def _rights(monitor: str) -> Sequence[object]:
    kind = MONITORS.get(monitor)
    return (*kind.keeps, *kind.opens)


def chosen_by(rule: Rule) -> set[str]:
    """Return by which keys a rule chooses processes, those that it leaves out among them."""

    def said(who: Who) -> set[str]:
        return {key for key in _CHOOSING if getattr(who, key)}

    return said(rule) | said(rule.exclude)


def _check_budget(config: Config, found: dict[str, tuple[str, ...]]) -> None:
    """Refuse a rate for all rules together that helpers would not keep: each keeps its own rule's alone."""
    total = config.budget.rate
    rules = [rule for rule in config.rule if rule.name in found]
    if total is None or not rules:
        return
    for rule in rules:
        if rule.rate is None:
            raise InputError(
                f"budget.rate is for all rules together, and the kernel keeps that of a rule alone; "
                f"give rule {rule.name} a rate, which is taken off the budget, or leave budget.rate out"
            )
    taken = sum(rule.rate or 0 for rule in rules)
    if taken > total or (taken == total and _moves_itself(config)):
        raise InputError(
            f"rules that the kernel carries out have {format_bytes(taken)}/s, and budget.rate is "
            f"{format_bytes(total)}/s for all; give them less, so that something is left for the others"
        )


def _moves_itself(config: Config) -> bool:
    return any(rule.backend == OWN and rule.policy != "off" for rule in config.rule)
