"""What a design costs others: its producers per mark, alone and two at once, and a busy neighbour.

Measured with the steps that designs declare, see :mod:`gpuscan.compare.steps`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from gpuscan.bench.floors import or_words
from gpuscan.compare.steps.look_up import co_runner_of, mark_step_of
from gpuscan.compare.steps.neighbours import CO_RUNNERS
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.steps import CoRunner, Marking, MarkStep

N_PAGES = 1 << 22
"""Of the machine the producers mark and the walks walk: 16 GiB, its struct pages are 256 MiB."""
_N_MARKS = 1 << 19
_ROUNDS = 5
_VICTIM_BYTES = 256 << 20
_VICTIM_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class ProducerCost:
    """Nanoseconds per mark of a producer, one alone and each of two at once, to random pages that no mark was
    made of before; NaN where the machine has one CPU. ``single_ns``: one alone, each mark made by itself."""

    alone_ns: float
    beside_another_ns: float
    single_ns: float


def n_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def producer_costs(names: Sequence[str], on_step: Callable[[str], None]) -> dict[str, ProducerCost]:
    """Measure the producers of designs that declare what a mark is; ``on_step`` is called after each.

    Every timed mark finds what the first of its page would: what the round before left is cleared, and then
    no cache has it, both untimed.
    """
    order = np.random.default_rng(3).permutation(N_PAGES)
    pfns = [order[:_N_MARKS], order[_N_MARKS : 2 * _N_MARKS]]
    costs, measured = {}, dict[str, ProducerCost]()
    for name in names:
        step = mark_step_of(DESIGNS.get(name))
        if step is not None:
            if step.name not in measured:  # what marks alike costs the same
                measured[step.name] = _producer_cost(step, pfns)
            costs[name] = measured[step.name]
        on_step(name)
    return costs


def _producer_cost(step: MarkStep, pfns: list[Any]) -> ProducerCost:
    evicting = np.ones(_VICTIM_BYTES // 8, dtype=np.int64)
    with step.open(N_PAGES, pfns) as marking:
        alone_ns = _alone_ns(marking, evicting)
        both = [_round_ns(marking, evicting, 2) for _ in range(_ROUNDS)] if n_cpus() > 1 else [float("nan")]
    single_ns = alone_ns
    if step.open_single is not None:
        with step.open_single(N_PAGES, pfns) as marking:
            single_ns = _alone_ns(marking, evicting)
    return ProducerCost(alone_ns, min(both), single_ns)


def _alone_ns(marking: Marking, evicting: Any) -> float:
    return min([_round_ns(marking, evicting, 1) for _ in range(1 + _ROUNDS)][1:])  # the first one compiles


def _round_ns(marking: Marking, evicting: Any, n_threads: int) -> float:
    """Return the ns per mark of each of ``n_threads``."""
    marking.clear()
    or_words.for_bits(64)(evicting)
    return _marks_ns(marking.mark, n_threads)


def _marks_ns(mark: Callable[[int], object], n_threads: int) -> float:
    """Return the ns per mark of each of ``n_threads`` that mark at once."""
    barrier, ended = threading.Barrier(n_threads + 1), [0.0] * n_threads

    def work(number: int) -> None:
        barrier.wait()
        started = time.thread_time_ns()
        mark(number)
        ended[number] = (time.thread_time_ns() - started) / _N_MARKS

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for thread in threads:
        thread.join()
    return max(ended)


def co_runners(names: Sequence[str]) -> tuple[CoRunner, ...]:
    """Return what is measured beside a neighbour: the table's, and what these designs bring."""
    brought = (co_runner_of(DESIGNS.get(name)) for name in names)
    known = dict(CO_RUNNERS)
    known.update({runner.name: runner for runner in brought if runner is not None})
    return tuple(known.values())


def co_runner_slowdown(on_step: Callable[[str], None], names: Sequence[str] = ()) -> dict[str, float]:
    """Return by step how much slower a thread that reads 256 MiB over and over gets while another scans.

    Returns:
        By the names of :func:`co_runners`: 1 - with / without, by the bytes that the thread read. Empty on a
        machine with one CPU.
    """
    if n_cpus() < 2:
        return {}
    words = np.ones(_VICTIM_BYTES // 8, dtype=np.int64)
    read = or_words.for_bits(64)
    read(words)
    slower = {}
    for runner in co_runners(names):
        with runner.open(N_PAGES) as scan:
            scan()
            ratios = []
            for _ in range(3):
                alone = _read_rate(lambda: read(words), None)
                ratios.append(_read_rate(lambda: read(words), scan) / alone)
        slower[runner.name] = 1 - median(ratios)
        on_step(runner.name)
    return slower


def _read_rate(read: Callable[[], Any], beside: Callable[[], Any] | None) -> float:
    """Return reads per second of a thread for a quarter of a second."""
    stop = threading.Event()

    def scan_on() -> None:
        while beside is not None and not stop.is_set():
            beside()

    thread = threading.Thread(target=scan_on)
    thread.start()
    started, n_reads = time.perf_counter_ns(), 0
    while time.perf_counter_ns() - started < _VICTIM_NS:
        read()
        n_reads += 1
    elapsed_ns = time.perf_counter_ns() - started
    stop.set()
    thread.join()
    return n_reads / elapsed_ns * 1e9
