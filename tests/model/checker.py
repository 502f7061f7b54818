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
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import Any

Words = tuple[int, ...]
"""What some locations hold."""


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
    """One atomic access, to one memory word or to several in one step.

    Attributes:
        locations: names of the memory words.
        label: what a trace calls it.
        effect: old words -> new words, in the order of ``locations``; None is a load.
        see: old words -> what the thread keeps of them; None: the thread does not look.
    """

    locations: tuple[str, ...]
    label: str
    effect: Callable[[Words], Words] | None
    see: Callable[[Words], Hashable] | None


def load(location: str, see: Callable[[int], Hashable]) -> Access:
    """Return a load."""
    return Access((location,), "load", None, lambda words: see(words[0]))


def update(
    location: str, label: str, effect: Callable[[int], int], see: Callable[[int], Hashable] | None = None
) -> Access:
    """Return an atomic read-modify-write (a compare-exchange loop is one: a failed round writes nothing)."""
    return Access(
        (location,),
        label,
        lambda words: (effect(words[0]),),
        None if see is None else lambda words: see(words[0]),
    )


def update_together(
    locations: Sequence[str],
    label: str,
    effect: Callable[[Words], Words],
    see: Callable[[Words], Hashable] | None = None,
) -> Access:
    """Return an atomic read-modify-write of several words, that others access one by one."""
    return Access(tuple(locations), label, effect, see)


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
class _Placed:
    """An access and how many fences of each kind its thread has passed before it."""

    access: Access
    n_full: int
    n_release: int

    def before(self, later: _Placed) -> bool:
        """Whether this access must be performed before ``later``, which its thread issues afterwards."""
        return (
            not set(self.access.locations).isdisjoint(later.access.locations)
            or self.n_full < later.n_full
            or (self.n_release < later.n_release and later.access.effect is not None)
        )


@dataclass(frozen=True, slots=True)
class _Issued:
    """An access of a thread: performed, or outstanding with the result that the thread assumed."""

    outstanding: bool
    result: Hashable


_History = tuple[_Issued, ...]


@dataclass(slots=True, eq=False)
class _Choice:
    """One access that a thread may perform next.

    ``positions``: of its words in a state. ``moves``: words found -> (the thread's state afterwards, words
    left), None for a wrong guess.
    """

    access: Access
    positions: tuple[int, ...]
    history: _History
    index: int
    moves: dict[Words, tuple[int, Words] | None] = field(default_factory=dict)

    @property
    def late(self) -> bool:
        """Whether a later access of the thread, or its end, was issued before this one was performed."""
        return self.index < len(self.history)


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
            self.locals.append(self._unfold(history))
        return found

    def _replay(self, history: _History) -> tuple[list[_Placed], bool, Hashable]:
        """Return the accesses issued, then the next one unless the thread ends; whether it ends, and how."""
        program = self._start()
        placed: list[_Placed] = []
        n_full = n_release = 0
        to_send: Hashable = None
        try:
            while True:
                step = program.send(to_send)
                to_send = None
                if isinstance(step, Fence):
                    n_full += step is Fence.FULL
                    n_release += step is Fence.RELEASE
                    continue
                placed.append(_Placed(step, n_full, n_release))
                if len(placed) > len(history):
                    return placed, False, None
                to_send = history[len(placed) - 1].result
        except StopIteration as end:
            return placed, True, end.value

    def _unfold(self, history: _History) -> _Local:
        outstanding = [index for index, entry in enumerate(history) if entry.outstanding]
        placed, ends, outcome = self._replay(history)
        choices = [
            self._choice(placed[index], history, index)
            for index in outstanding
            if not any(placed[earlier].before(placed[index]) for earlier in outstanding if earlier < index)
        ]
        choices += self._next_choices(history)
        return _Local(choices, ends and not outstanding, outcome)

    def _next_choices(self, history: _History) -> Iterator[_Choice]:
        """Yield what may be performed of all that was not issued yet."""
        placed, ends, _ = self._replay(history)
        if ends:
            return
        following = placed[-1]
        outstanding = [placed[index] for index, entry in enumerate(history) if entry.outstanding]
        if not any(earlier.before(following) for earlier in outstanding):
            yield self._choice(following, history, len(history))
        if not self._relaxed or any(earlier.n_full < following.n_full for earlier in outstanding):
            return
        # Putting an access off changes nothing that others can see, so it is no step of its
        # own: it comes together with performing a later one.
        for guess in self._guesses(following.access):
            yield from self._next_choices((*history, _Issued(True, guess)))

    def _guesses(self, access: Access) -> set[Hashable]:
        if access.see is None:
            return {_UNSEEN}
        domains = (self._domains[location] for location in access.locations)
        return {access.see(words) for words in product(*domains)}

    def _choice(self, placed: _Placed, history: _History, index: int) -> _Choice:
        positions = tuple(self._locations[location] for location in placed.access.locations)
        return _Choice(placed.access, positions, history, index)

    def perform(self, choice: _Choice, words: Words) -> tuple[int, Words] | None:
        """Return the thread's state after ``choice`` found ``words``, and those left; None: wrong guess."""
        access, history, index = choice.access, choice.history, choice.index
        seen = access.see(words) if access.see is not None else _UNSEEN
        if choice.late and history[index].result != seen:
            return None
        left = words if access.effect is None else access.effect(words)
        for location, word in zip(access.locations, left, strict=True):
            if word not in self._domains[location]:
                raise DomainError(f"{location}: {word} is not in its domain")
        after = self.number((*history[:index], _Issued(False, seen), *history[index + 1 :]))
        return after, left


_CameFrom = dict[tuple[int, ...], tuple[tuple[int, ...], int, _Choice] | None]
"""State (words, then threads) -> the state before it, who moved, and how."""


class DomainError(Exception):
    """A word was written that the system's domains do not list: guesses would miss it."""


def check(system: System, order: Order) -> Result:
    """Visit every state that ``system`` can reach; stop at the first end that ``judge`` objects to.

    Breadth first, so the trace is a shortest one.

    Raises:
        DomainError: a word was written that the system does not list.
    """
    names = list(system.memory)
    locations = {name: index for index, name in enumerate(names)}
    n_words = len(names)
    threads = [_Thread(start, order, locations, system.domains) for start in system.threads.values()]
    first = (*system.memory.values(), *(thread.number(()) for thread in threads))
    came_from: _CameFrom = {first: None}
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
                words = tuple([state[place] for place in choice.positions])
                if words not in choice.moves:
                    choice.moves[words] = thread.perform(choice, words)
                move = choice.moves[words]
                if move is None:
                    continue
                result.n_steps += 1
                reached = list(state)
                reached[position], left = move
                for place, word in zip(choice.positions, left, strict=True):
                    reached[place] = word
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


def _trace(system: System, came_from: _CameFrom, state: tuple[int, ...]) -> list[str]:
    lines = []
    names = list(system.threads)
    while (step := came_from[state]) is not None:
        before, who, choice = step
        access = choice.access
        late = " (late)" if choice.late else ""
        for location, place in [*zip(access.locations, choice.positions, strict=True)][::-1]:
            old, new = before[place], state[place]
            change = system.show(location, old)
            if access.effect is not None and old != new:
                change += f" -> {system.show(location, new)}"
            lines.append(f"{names[who]:<10} {access.label + late:<22} {location:<9} {change}")
        state = before
    return lines[::-1]
