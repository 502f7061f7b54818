"""An explicit-state model checker: every execution of a few threads over a few memory words.

A thread is a generator that yields accesses and fences and returns what it did::

    def claim(page):
        ready = yield load(f"record {page}", see=is_ready)
        if not ready:
            return ()
        word = yield update(f"record {page}", "claim", take, see=same)
        return ((page, word),)

It must be a pure function of its arguments and of what its accesses saw: the
checker replays it from the start for every distinct sequence of results.

Two orders:

- ``PROGRAM``: accesses perform one at a time, in program order (sequential consistency).
- ``RELAXED``: a thread's accesses perform in any order, except that two of them on one
  location, and two with a fence between them, keep theirs. Dependencies order nothing:
  where a result decides what the thread does next, the thread goes on with a guess, and
  an execution counts only if every guess turns out right. That is weaker than PTX, Armv8
  or RISC-V, which keep at least some dependencies.

Memory has one copy: what was performed is seen by all threads. Every execution is
finite, so there is nothing to say about progress.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Order(Enum):
    """Which executions exist."""

    PROGRAM = "program order"
    RELAXED = "relaxed order"


class Fence(Enum):
    """What lies between two accesses."""

    FULL = "full"
    """``__threadfence()``, ``smp_mb()``: nothing passes."""
    RELEASE = "release"
    """What came before comes before later updates; later loads may pass (no store-load order)."""


@dataclass(frozen=True, slots=True)
class Access:
    """One atomic access.

    Attributes:
        location: name of a memory word.
        label: what a trace calls it.
        effect: old word -> new word; None is a load.
        see: old word -> what the thread keeps of it; None: the thread does not look.
    """

    location: str
    label: str
    effect: Callable[[int], int] | None
    see: Callable[[int], Hashable] | None


def load(location: str, see: Callable[[int], Hashable]) -> Access:
    """Return a load."""
    return Access(location, "load", None, see)


def update(
    location: str, label: str, effect: Callable[[int], int], see: Callable[[int], Hashable] | None = None
) -> Access:
    """Return an atomic read-modify-write (a compare-exchange loop is one: a failed round writes nothing)."""
    return Access(location, label, effect, see)


Step = Access | Fence
Program = Generator[Step, Any, Hashable]
Judge = Callable[[Mapping[str, int], Mapping[str, Any]], tuple[list[str], list[str]]]


@dataclass(frozen=True, slots=True)
class System:
    """What is checked.

    Attributes:
        memory: the words at the start.
        domains: every word a location can ever hold (guesses are drawn from it; checked).
        threads: name -> a function that starts the thread.
        judge: (words at rest, what each thread returned) -> (violations, events that occurred).
        show: (location, word) -> text for traces.
    """

    memory: Mapping[str, int]
    domains: Mapping[str, frozenset[int]]
    threads: Mapping[str, Callable[[], Program]]
    judge: Judge
    show: Callable[[str, int], str]


@dataclass(slots=True)
class Result:
    """What was found.

    Attributes:
        n_states: distinct states visited.
        n_steps: accesses performed.
        n_ends: distinct states at rest, all threads ended.
        n_stuck: states without a step that are not at rest: wrong guesses.
        events: how many of the ends saw each event.
        violations: of the first bad end; empty = none anywhere.
        trace: the shortest execution that leads there, a line per access.
    """

    n_states: int = 0
    n_steps: int = 0
    n_ends: int = 0
    n_stuck: int = 0
    events: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


_UNSEEN = None


@dataclass(frozen=True, slots=True)
class _Issued:
    """An access of a thread: performed, or outstanding with the result that the thread assumed."""

    outstanding: bool
    result: Hashable


_History = tuple[_Issued, ...]


@dataclass(slots=True, eq=False)
class _Choice:
    """One access that a thread may perform next, and the state it is in afterwards."""

    access: Access
    location: int
    late: bool
    guess: Hashable
    history: _History
    index: int
    after: dict[Hashable, int | None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Local:
    """A state of one thread: its choices, or how it ended."""

    choices: list[_Choice]
    ended: bool
    outcome: Hashable


class _Thread:
    """The automaton of one thread, unfolded as needed. States are numbers."""

    def __init__(
        self,
        start: Callable[[], Program],
        order: Order,
        locations: Mapping[str, int],
        domains: Mapping[str, frozenset[int]],
    ) -> None:
        self._start = start
        self._relaxed = order is Order.RELAXED
        self._locations = locations
        self._domains = domains
        self._numbers: dict[_History, int] = {}
        self.locals: list[_Local] = []

    def number(self, history: _History) -> int:
        """Return the number of the state after ``history``."""
        found = self._numbers.get(history)
        if found is None:
            found = self._numbers[history] = len(self.locals)
            self.locals.append(_Local([], False, None))
            self.locals[found] = self._unfold(history)
        return found

    def _replay(self, history: _History) -> tuple[list[Step], Access | None, Hashable]:
        """Return everything issued so far, the next access (None: ended) and the outcome."""
        program = self._start()
        issued: list[Step] = []
        results = iter(history)
        to_send: Hashable = None
        try:
            while True:
                what = program.send(to_send)
                if isinstance(what, Fence):
                    issued.append(what)
                    to_send = None
                    continue
                entry = next(results, None)
                if entry is None:
                    return issued, what, None
                issued.append(what)
                to_send = entry.result
        except StopIteration as end:
            return issued, None, end.value

    def _unfold(self, history: _History) -> _Local:
        choices = list(self._choices(history, 0))
        _, following, outcome = self._replay(history)
        ended = following is None and not any(entry.outstanding for entry in history)
        return _Local(choices, ended, outcome)

    def _choices(self, history: _History, n_assumed: int) -> Iterator[_Choice]:
        """Yield what may be performed next, after putting off the last ``n_assumed`` accesses issued."""
        issued, following, _ = self._replay(history)
        accesses = [position for position, what in enumerate(issued) if isinstance(what, Access)]
        if not n_assumed:
            for index, entry in enumerate(history):
                if entry.outstanding and self._may_perform(issued, accesses, history, index):
                    yield self._choice(issued[accesses[index]], history, index, late=True)
        if following is None:
            return
        issued.append(following)
        accesses.append(len(issued) - 1)
        index = len(history)
        if self._may_perform(issued, accesses, history, index):
            yield self._choice(following, history, index, late=False)
        if self._relaxed:
            # Putting an access off changes nothing that others can see, so it is no step of
            # its own: it comes together with performing a later one.
            for guess in self._guesses(following):
                yield from self._choices((*history, _Issued(True, guess)), n_assumed + 1)

    def _guesses(self, access: Access) -> set[Hashable]:
        if access.see is None:
            return {_UNSEEN}
        return {access.see(word) for word in self._domains[access.location]}

    def _may_perform(
        self, issued: list[Step], accesses: list[int], history: _History, index: int
    ) -> bool:
        """Whether no outstanding earlier access must come first."""
        later = issued[accesses[index]]
        assert isinstance(later, Access)
        for earlier_index in range(min(index, len(history))):
            if not history[earlier_index].outstanding:
                continue
            earlier = issued[accesses[earlier_index]]
            assert isinstance(earlier, Access)
            if earlier.location == later.location:
                return False
            between = issued[accesses[earlier_index] + 1 : accesses[index]]
            if Fence.FULL in between or (Fence.RELEASE in between and later.effect is not None):
                return False
        return True

    def _choice(self, access: Step, history: _History, index: int, *, late: bool) -> _Choice:
        assert isinstance(access, Access)
        guess = history[index].result if late else _UNSEEN
        return _Choice(access, self._locations[access.location], late, guess, history, index)

    def perform(self, choice: _Choice, word: int) -> int | None:
        """Return the thread's state after ``choice`` found ``word``, None if a guess was wrong."""
        seen = choice.access.see(word) if choice.access.see is not None else _UNSEEN
        if seen in choice.after:
            return choice.after[seen]
        after: int | None
        if choice.late and choice.guess != seen:
            after = None
        else:
            done = _Issued(False, seen)
            history = choice.history
            after = self.number((*history[: choice.index], done, *history[choice.index + 1 :]))
        choice.after[seen] = after
        return after


class DomainError(Exception):
    """A word was written that the system's domains do not list: guesses would miss it."""


def check(system: System, order: Order) -> Result:
    """Visit every state that ``system`` can reach; stop at the first end that ``judge`` objects to.

    Breadth first, so the trace is a shortest one.
    """
    names = list(system.memory)
    locations = {name: index for index, name in enumerate(names)}
    n_words = len(names)
    domains = [system.domains[name] for name in names]
    threads = [_Thread(start, order, locations, system.domains) for start in system.threads.values()]
    first = (*(system.memory[name] for name in names), *(thread.number(()) for thread in threads))
    came_from: dict[tuple[int, ...], tuple[tuple[int, ...], int, _Choice] | None] = {first: None}
    queue = deque([first])
    result = Result()
    while queue:
        state = queue.popleft()
        n_before = result.n_steps
        n_ended = 0
        for position, thread in enumerate(threads, start=n_words):
            local = thread.locals[state[position]]
            n_ended += local.ended
            for choice in local.choices:
                word = state[choice.location]
                after = thread.perform(choice, word)
                if after is None:
                    continue
                result.n_steps += 1
                reached = list(state)
                reached[position] = after
                if choice.access.effect is not None:
                    new = choice.access.effect(word)
                    if new not in domains[choice.location]:
                        raise DomainError(f"{choice.access.location}: {new} is not in its domain")
                    reached[choice.location] = new
                key = tuple(reached)
                if key not in came_from:
                    came_from[key] = (state, position - n_words, choice)
                    queue.append(key)
        if n_ended == len(threads):
            result.n_ends += 1
            outcomes = {
                name: thread.locals[number].outcome
                for name, thread, number in zip(system.threads, threads, state[n_words:], strict=True)
            }
            violations, events = system.judge(dict(zip(names, state[:n_words], strict=True)), outcomes)
            result.events.update(set(events))
            if violations:
                result.violations = violations
                result.trace = _trace(system, came_from, state)
                break
        elif result.n_steps == n_before:
            result.n_stuck += 1
    result.n_states = len(came_from)
    return result


def _trace(
    system: System,
    came_from: Mapping[tuple[int, ...], tuple[tuple[int, ...], int, _Choice] | None],
    state: tuple[int, ...],
) -> list[str]:
    lines = []
    names = list(system.threads)
    while (step := came_from[state]) is not None:
        before, who, choice = step
        access = choice.access
        old, new = before[choice.location], state[choice.location]
        change = system.show(access.location, old)
        if access.effect is not None and old != new:
            change += f" -> {system.show(access.location, new)}"
        late = " (late)" if choice.late else ""
        lines.append(f"{names[who]:<10} {access.label + late:<22} {access.location:<9} {change}")
        state = before
    return lines[::-1]
