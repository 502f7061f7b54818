"""Rules that the kernel carries out: its helpers are set up for them, watched over, and put back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import Right
from gpuscan.service.config import Config, Rule
from gpuscan.service.helpers.catalogue import HELPERS
from gpuscan.service.helpers.combining import chosen_by, helped
from gpuscan.service.helpers.contract import Helper, Moved, Place, Work


class Helping:
    """Helpers of the kernel, as a configuration asks for them. Close it, whatever happens.

    Args:
        config: whose rules.
        place: where.

    Raises:
        InputError: a rule asks for what does not work here.
    """

    def __init__(self, config: Config, place: Place) -> None:
        self._place = place
        self._helpers: dict[str, Helper] = {}
        self._rules: dict[str, tuple[Rule, str]] = {}
        self._is_all = False
        self._before: dict[str, Moved] = {}
        """What helpers that are closed had moved, by rule."""
        self._refused: dict[str, str] = {}
        self._silent: dict[str, str] = {}
        """Why helpers do not say what they moved."""
        self._cpu_s: dict[str, float] = {}
        self._told: dict[str, dict[str, Moved]] = {}
        self._noted: dict[str, Moved] = {}
        try:
            self.configure(config)
        except BaseException:
            self.close()
            raise

    @property
    def keeps(self) -> list[Right]:
        """Rights that the helpers need."""
        return [right for name in self._helpers for right in HELPERS.get(name).keeps]

    def helper_of(self, rule: str) -> str | None:
        """Return the helper that carries out a rule; None: gpuscan itself does."""
        return self._rules[rule][1] if rule in self._rules else None

    def configure(self, config: Config) -> None:
        """Open what a configuration needs, and close what it does not; :meth:`use` tells them what to do.

        Raises:
            InputError: one does not work here; all is as it was.
        """
        known = dict(self._helpers)
        found: dict[str, tuple[Rule, str]] = {}
        rules = {rule.name: rule for rule in config.rule}
        try:
            for name, helpers in helped(config).items():
                found[name] = rules[name], self._first_that_works(name, helpers)
        except BaseException:
            for name in self._helpers.keys() - known.keys():
                self._helpers.pop(name).close()
            raise
        self._rules = found
        self._is_all = len(config.rule) == 1 and not chosen_by(config.rule[0])
        for name in self._helpers.keys() - {helper for _, helper in found.values()}:
            self._retire(name)

    def _first_that_works(self, rule: str, names: Sequence[str]) -> str:
        refused = []
        for name in names:
            try:
                if name not in self._helpers:
                    self._helpers[name] = HELPERS.get(name).open(self._place)
            except (InputError, OSError) as error:
                refused.append(f"{name}: {error}")
            else:
                return name
        raise InputError(f"rule {rule} cannot be carried out by the kernel here: {'; '.join(refused)}")

    def use(self, cgroups: Mapping[str, frozenset[str]], *, rests: bool = False) -> None:
        """Have the rules carried out, or none while the service rests.

        Args:
            cgroups: of the processes of each rule.
            rests: all is to be as it was found.

        Raises:
            InputError: a helper does not take what it is told; :meth:`trouble` has it from then on.
            OSError: the kernel refuses; so here, too.
        """
        first: InputError | OSError | None = None
        for name, helper in self._helpers.items():
            works = [
                Work(rule, cgroups.get(rule.name, frozenset()), self._is_all)
                for rule, wanted in self._rules.values()
                if wanted == name and not rests
            ]
            try:
                helper.use(works)
                self._refused.pop(name, None)
            except (InputError, OSError) as error:
                self._refused[name] = str(error)
                first = first or error
        if first is not None:
            raise first

    def moved(self) -> defaultdict[str, Moved]:
        """Return what the kernel moved, by rule; each helper is asked once."""
        found = defaultdict(Moved, self._before)
        for name in self._helpers:
            for rule, moved in self._moved_by(name).items():
                found[rule] = _sum(found[rule], moved)
        return found

    def _moved_by(self, name: str) -> dict[str, Moved]:
        """Return what a helper moved, as it last could say."""
        try:
            self._told[name] = dict(self._helpers[name].moved())
            self._silent.pop(name, None)
        except (InputError, OSError) as error:
            self._silent[name] = str(error)
        return self._told.get(name, {})

    def changes(self) -> dict[str, Moved]:
        """Return what the kernel moved since the last call, by rule; those without any are left out."""
        found: dict[str, Moved] = {}
        for rule, now in sorted(self.moved().items()):
            noted = self._noted.get(rule, Moved())
            if now != noted:
                self._noted[rule] = now
                found[rule] = Moved(*(after - before for after, before in zip(now, noted, strict=True)))
        return found

    def trouble(self) -> dict[str, str]:
        """Return what keeps helpers from doing all that they were told, by their names."""
        found: dict[str, str] = {}
        for name, helper in self._helpers.items():
            try:
                text = self._refused.get(name) or helper.trouble() or self._silent.get(name)
            except (InputError, OSError) as error:
                text = str(error)
            if text:
                found[name] = text
        return found

    def document(self) -> list[dict[str, Any]]:
        """Return how each helper stands."""
        trouble = self.trouble()
        return [
            {
                "name": name,
                "does": HELPERS.get(name).does,
                "rules": [rule for rule, (_, wanted) in self._rules.items() if wanted == name],
                "cpu_s": round(self._cpu_of(name), 3),
                "trouble": trouble.get(name, ""),
            }
            for name in self._helpers
        ]

    def _cpu_of(self, name: str) -> float:
        """Return the CPU time of a helper, as it last could say."""
        with contextlib.suppress(InputError, OSError):
            self._cpu_s[name] = self._helpers[name].cpu_s()
        return self._cpu_s.get(name, 0.0)

    def _retire(self, name: str) -> None:
        """Close a helper; what it moved stays counted."""
        helper = self._helpers[name]
        try:
            helper.use(())
        finally:
            for rule, moved in self._moved_by(name).items():
                self._before[rule] = _sum(self._before.get(rule, Moved()), moved)
            del self._helpers[name]
            for kept in (self._refused, self._silent, self._told, self._cpu_s):
                kept.pop(name, None)
            helper.close()

    def close(self) -> None:
        """Leave the kernel as it was found.

        Raises:
            OSError: the kernel refuses; the next service tries again.
        """
        while self._helpers:
            try:
                self._retire(next(iter(self._helpers)))
            finally:
                if self._helpers:
                    self.close()


def _sum(one: Moved, other: Moved) -> Moved:
    return Moved(one.promoted_pages + other.promoted_pages, one.demoted_pages + other.demoted_pages)
