"""The claim protocol, every interleaving: sound as it is meant, and every way to break it is found."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pytest

from model.checker import DomainError, Fence, Order, Program, Step, System, check, load, update
from model.faults import FAULTS, Fault
from model.sound import CASES, Case


def _runs() -> Iterator[Any]:
    for case in CASES:
        for order in Order:
            large = case.large and order is Order.RELAXED
            yield pytest.param(
                case, order, id=f"{case.name}, {order.value}", marks=[pytest.mark.slow] if large else []
            )


@pytest.mark.parametrize(("case", "order"), list(_runs()))
def test_protocol_is_sound(case: Case, order: Order) -> None:
    result = check(case.build(), order)
    assert not result.violations, "\n".join(result.violations + result.trace)
    assert case.occurs <= result.events.keys(), "the case does not exercise what it is for"
    assert result.n_states > 300
    if order is Order.PROGRAM:
        assert result.n_stuck == 0, "a thread never ended"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found(fault: Fault) -> None:
    result = check(fault.build(), fault.order)
    assert any(re.search(fault.finds, violation) for violation in result.violations), result.violations
    assert result.trace


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.order is Order.RELAXED], ids=lambda fault: fault.name
)
def test_program_order_hides_missing_fences(fault: Fault) -> None:
    # Why no stress test on x86, where every locked instruction is a full barrier, finds them.
    assert not check(fault.build(), Order.PROGRAM).violations


# The checker against litmus tests with known answers. Words are x and y, all 0 at first.


def _thread(*steps: Step) -> Program:
    seen: tuple[Hashable, ...] = ()
    for step in steps:
        result = yield step
        if isinstance(step, Fence) or step.see is None:
            continue
        seen += (result,)
    return seen


def _outcomes(order: Order, *threads: tuple[Step, ...]) -> set[tuple[Hashable, ...]]:
    """Return everything that the threads can have seen, in the threads' order, and x and y at the end."""
    found: set[tuple[Hashable, ...]] = set()

    def judge(memory: Mapping[str, int], outcomes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        found.add((*sum(outcomes.values(), ()), memory["x"], memory["y"]))
        return [], []

    memory = {"x": 0, "y": 0}
    named = {str(index): (lambda steps=steps: _thread(*steps)) for index, steps in enumerate(threads)}
    domains = {name: frozenset(range(3)) for name in memory}
    check(System(memory, domains, named, judge, lambda location, word: str(word)), order)
    return found


def _store(location: str, value: int) -> Step:
    return update(location, "store", lambda word: value)


def _read(location: str) -> Step:
    return load(location, see=int)


@pytest.mark.parametrize(
    ("order", "fence", "allowed"),
    [
        (Order.PROGRAM, (), False),
        (Order.RELAXED, (), True),
        (Order.RELAXED, (Fence.RELEASE,), True),
        (Order.RELAXED, (Fence.FULL,), False),
    ],
)
def test_store_buffering(order: Order, fence: tuple[Fence, ...], allowed: bool) -> None:
    found = _outcomes(order, (_store("x", 1), *fence, _read("y")), (_store("y", 1), *fence, _read("x")))
    assert ((0, 0, 1, 1) in found) == allowed
    assert {(1, 0, 1, 1), (0, 1, 1, 1), (1, 1, 1, 1)} <= found


@pytest.mark.parametrize(
    ("order", "writer", "reader", "allowed"),
    [
        (Order.PROGRAM, (), (), False),
        (Order.RELAXED, (), (), True),
        (Order.RELAXED, (Fence.RELEASE,), (), True),
        (Order.RELAXED, (), (Fence.FULL,), True),
        (Order.RELAXED, (Fence.RELEASE,), (Fence.FULL,), False),
    ],
)
def test_message_passing(
    order: Order, writer: tuple[Fence, ...], reader: tuple[Fence, ...], allowed: bool
) -> None:
    found = _outcomes(order, (_store("x", 1), *writer, _store("y", 1)), (_read("y"), *reader, _read("x")))
    assert ((1, 0, 1, 1) in found) == allowed


@pytest.mark.parametrize(("order", "allowed"), [(Order.PROGRAM, False), (Order.RELAXED, True)])
def test_load_buffering(order: Order, allowed: bool) -> None:
    found = _outcomes(order, (_read("x"), _store("y", 1)), (_read("y"), _store("x", 1)))
    assert ((1, 1, 1, 1) in found) == allowed


@pytest.mark.parametrize("order", Order)
def test_one_location_stays_in_order(order: Order) -> None:
    found = _outcomes(order, (_store("x", 1), _store("x", 2)), (_read("x"), _read("x")))
    seen = {outcome[:2] for outcome in found}
    assert seen == {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)}


@pytest.mark.parametrize("order", Order)
def test_updates_are_atomic(order: Order) -> None:
    increment = update("x", "increment", lambda word: word + 1, see=int)
    assert _outcomes(order, (increment,), (increment,)) == {(0, 1, 2, 0), (1, 0, 2, 0)}


def test_wrong_guesses_do_not_count() -> None:
    # x only ever holds 0: an execution in which the load was taken for 1 did not happen.
    found = _outcomes(Order.RELAXED, (_read("x"), _store("y", 1)))
    assert found == {(0, 0, 1)}


def test_word_outside_its_domain_is_refused() -> None:
    with pytest.raises(DomainError, match="x: 5"):
        _outcomes(Order.PROGRAM, (_store("x", 5),))
