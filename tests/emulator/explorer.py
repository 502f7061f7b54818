"""Runs kernels in every order of their steps that can make a difference; ``explorer.cpp`` is the loop.

docs/emulator.md says what a step is and what is shown.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emulator import loader

_ALIGNED_BYTES = 256  # cudaMalloc's
_MOST_EXECUTIONS = 50_000_000
_KINDS = ("load", "store", "load", "store", "exchange", "cas", "add", "sub", "and", "or", "xor", "max", "min")
_LIBRARY_FLAGS = ("-O2", "-fPIC", "-shared", "-DEMULATOR_EXPLORES", "-Wno-unused-function")

Arrays = Mapping[str, NDArray[Any]]
Judge = Callable[[Arrays], str | None]
"""What memory holds at an end -> what is wrong with it."""
Orders = Literal["reduced", "all", "accesses", "serial"]
"""One of the orders that differ in nothing but independent steps; all; all, where every access to what two
actors touch is a step, whether they race or not; those where an actor runs on until it waits."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel that runs beside the others.

    Attributes:
        kernel: its name.
        n_blocks, n_threads: the grid, and of a block.
        args: names of arrays for pointers, NumPy scalars for numbers.
    """

    kernel: str
    n_blocks: int
    n_threads: int
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a schedule: who, where in the source, and what it did to which item.

    Attributes:
        who: ``kernel block.warp``.
        lane: of the warp.
        place: ``file:line`` of the source.
        text: that line.
        what: load, store, exchange, cas, add, ...; ``late`` before it: it was made earlier and came now.
        where: ``array[item]``.
        before, after: what the accessed bytes held.
    """

    who: str
    lane: int
    place: str
    text: str
    what: str
    where: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class End:
    """One way in which all kernels end.

    Attributes:
        arrays: what memory holds.
        complaint: what is wrong with it, None if nothing is.
        n_executions: that were completed and end like this.
        n_switches: how often another actor goes on, in ``schedule``. Where ``complaint`` is set, no order
            that ends like this has fewer.
        schedule: a way there.
    """

    arrays: Arrays
    complaint: str | None
    n_executions: int
    n_switches: int
    schedule: tuple[Step, ...]

    def told(self) -> str:
        """Return the schedule as lines, one a step, and the complaint."""
        rows = []
        last = ""
        for step in self.schedule:
            change = f"{step.before:#x}" + (f" -> {step.after:#x}" if step.after != step.before else "")
            who = step.who if step.who != last else ""
            last = step.who
            rows.append((who, f"lane {step.lane}", step.place, f"{step.what} {step.where}", change))
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"{self.n_switches} switches: {self.complaint or 'nothing is wrong'}"])


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was run.

    Attributes:
        n_executions: completed.
        n_cut: begun and given up: every step that was left leads to what was run before.
        n_traces: executions that differ in more than the order of independent steps.
        n_steps: taken, again where executions begin alike.
        n_visible: places, of 4 bytes, at which accesses are steps.
        n_restarts: how often a place or an update turned out to matter, and all began anew.
        is_exhausted: whether nothing is left to run.
        ends: distinct ones.
    """

    n_executions: int
    n_cut: int
    n_traces: int
    n_steps: int
    n_visible: int
    n_restarts: int
    is_exhausted: bool
    ends: tuple[End, ...]

    @property
    def wrong(self) -> tuple[End, ...]:
        """Ends with a complaint, the one with the shortest schedule first."""
        wrong = [end for end in self.ends if end.complaint is not None]
        return tuple(sorted(wrong, key=lambda end: (end.n_switches, len(end.schedule))))


class _GivenLaunch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
    )


_IS_WRONG = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_char_p)


class _Given(ctypes.Structure):
    _fields_ = (
        ("n_launches", ctypes.c_uint),
        ("launches", ctypes.POINTER(_GivenLaunch)),
        ("memory", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("memory_bytes", ctypes.c_size_t),
        ("watched_bytes", ctypes.c_size_t),
        ("shared_bytes", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("most_executions", ctypes.c_uint64),
        ("lanes_apart", ctypes.c_bool),
        ("stores_may_be_late", ctypes.c_bool),
        ("is_reduced", ctypes.c_bool),
        ("is_serial", ctypes.c_bool),
        ("are_all_accesses_steps", ctypes.c_bool),
        ("is_wrong", _IS_WRONG),
    )


class _Counts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("n_executions", "n_cut", "n_traces", "n_steps", "n_visible")),
        ("n_restarts", ctypes.c_uint64),
        ("n_ends", ctypes.c_uint64),
        ("is_exhausted", ctypes.c_bool),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint) for name in ("launch", "block", "warp", "lane", "kind", "n_bytes")),
        ("is_late", ctypes.c_bool),
        ("is_shared", ctypes.c_bool),
        *((name, ctypes.c_uint64) for name in ("at", "before", "after", "site")),
    )


class _Memory:
    """Arrays side by side: first those that a kernel may write, which are watched."""

    def __init__(self, arrays: Arrays, written: set[str]) -> None:
        self.fields: dict[str, tuple[int, np.dtype[Any], int]] = {}
        end = 0
        for name in sorted(arrays, key=lambda name: name not in written):
            if name not in written and "watched" not in self.__dict__:
                self.watched = end
            array = arrays[name]
            self.fields[name] = (end, array.dtype, array.size)
            end += -(-max(array.nbytes, 1) // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self.__dict__.setdefault("watched", end)
        room = np.zeros(end + _ALIGNED_BYTES, dtype=np.uint8)
        start = -room.ctypes.data % _ALIGNED_BYTES
        self.bytes = room[start : start + end]
        for name, view in self.views(self.bytes).items():
            view[:] = arrays[name].ravel()

    def views(self, memory: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return the arrays that lie in ``memory``."""
        return {
            name: memory[start : start + n_items * dtype.itemsize].view(dtype)
            for name, (start, dtype, n_items) in self.fields.items()
            if start + n_items * dtype.itemsize <= len(memory)
        }

    def where(self, at: int) -> str:
        """Return the name of an item."""
        for name, (start, dtype, n_items) in self.fields.items():
            if start <= at < start + n_items * dtype.itemsize:
                return f"{name}[{(at - start) // dtype.itemsize}]"
        return f"nothing's byte {at}"


class ExploredModule:
    """A compiled CUDA source whose kernels are run in every order.

    Args:
        source: CUDA C++, as :class:`emulator.loader.EmulatedModule` takes it.
        name: what to call it in schedules; #line directives in it count.

    Raises:
        EmulatorError: it does not compile.
    """

    def __init__(self, source: str, name: str = "source.cu") -> None:
        text = (loader.HEADERS / "explorer.cpp").read_text()
        explorer = loader.compiled_text(text, _LIBRARY_FLAGS, "explorer", "explorer.cpp")
        self._binary = loader.compiled(source, (), "explored", name, [explorer])
        self._library = ctypes.CDLL(str(self._binary))
        self._explorer = ctypes.CDLL(str(explorer))
        self._library.emulator_signatures.restype = ctypes.c_char_p
        self._library.emulator_call_of.restype = ctypes.c_void_p
        self._library.emulator_shared.restype = ctypes.c_void_p
        self._explorer.explorer_end.restype = ctypes.POINTER(_Step)
        self._explorer.explorer_base_of.restype = ctypes.c_size_t
        self._parameters = loader.parameters_of(self._library.emulator_signatures().decode())
        self._lines = _lines_of(source, name)
        self._places: dict[int, tuple[str, str]] = {}

    def call(self, name: str, *numbers: int) -> None:
        """Call an ``extern "C"`` function of the source that takes ints."""
        self._library[name](*numbers)

    def explore(
        self,
        arrays: Arrays,
        launches: Sequence[Launch],
        judge: Judge = lambda arrays: None,
        *,
        orders: Orders = "reduced",
        lanes_apart: bool = False,
        stores_may_be_late: bool = False,
        most_executions: int = _MOST_EXECUTIONS,
        seed: int = 0,
    ) -> Exploration:
        """Run ``launches`` beside each other, again and again, from ``arrays``, which are left alone.

        Args:
            arrays: all that the launches name.
            launches: what runs.
            judge: asked about each distinct end, once.
            orders: which orders are run.
            lanes_apart: lanes take turns; else warps do, whose lanes come in one order.
            stores_may_be_late: updates of global memory that nobody looks at come between where
                they are made and the lane's next fence, or access to the same bytes, whenever.
            most_executions: give up after so many.
            seed: the order of lanes, and what shared memory holds at first.

        Raises:
            EmulatorError: a launch does not fit its kernel.
            Exception: whatever ``judge`` raises.
        """
        memory = _Memory(arrays, self._written(launches))
        views = memory.views(memory.bytes)
        kept: list[Any] = []
        given_launches = (_GivenLaunch * len(launches))()
        for given, launch in zip(given_launches, launches, strict=True):
            args = [views[arg] if isinstance(arg, str) else arg for arg in launch.args]
            grid, block = loader.checked_launch(
                launch.kernel, (launch.n_blocks,), (launch.n_threads,), self._parameters[launch.kernel], args
            )
            pointers, held = loader.held_arguments(args)
            kept += [pointers, held]
            given.kernel = launch.kernel.encode()
            given.call = self._library.emulator_call_of(given.kernel)
            given.arguments = ctypes.cast(pointers, ctypes.c_void_p)
            given.grid[:], given.block[:] = grid, block
        raised: list[BaseException] = []

        def complaint_of(content: NDArray[np.uint8], error: str) -> str | None:
            return error or judge(memory.views(content))

        def is_wrong(address: int, error: bytes) -> bool:
            content = np.frombuffer(ctypes.string_at(address, memory.watched), dtype=np.uint8)
            try:
                return complaint_of(content, error.decode()) is not None
            except BaseException as problem:  # there is C++ between it and the caller
                raised.append(problem)
                return False

        shared_bytes = ctypes.c_size_t()
        shared = self._library.emulator_shared(ctypes.byref(shared_bytes))
        asked = _Given(
            n_launches=len(launches),
            launches=given_launches,
            memory=memory.bytes.ctypes.data,
            shared=shared,
            memory_bytes=len(memory.bytes),
            watched_bytes=memory.watched,
            shared_bytes=shared_bytes,
            seed=seed,
            most_executions=most_executions,
            lanes_apart=lanes_apart,
            stores_may_be_late=stores_may_be_late,
            is_reduced=orders == "reduced",
            is_serial=orders == "serial",
            are_all_accesses_steps=orders == "accesses",
            is_wrong=_IS_WRONG(is_wrong),
        )
        counts = _Counts()
        self._explorer.explorer_run(ctypes.byref(asked), ctypes.byref(counts))
        if raised:
            raise raised[0]
        ends = []
        for number in range(counts.n_ends):
            content, error, steps, n_executions, n_switches = self._end(number, memory.watched)
            told = tuple(self._told(step, launches, memory) for step in steps)
            arrays_then = {**views, **memory.views(content)}
            ends.append(End(arrays_then, complaint_of(content, error), n_executions, n_switches, told))
        return Exploration(
            n_executions=counts.n_executions,
            n_cut=counts.n_cut,
            n_traces=counts.n_traces,
            n_steps=counts.n_steps,
            n_visible=counts.n_visible,
            n_restarts=counts.n_restarts,
            is_exhausted=counts.is_exhausted,
            ends=tuple(ends),
        )

    def _written(self, launches: Sequence[Launch]) -> set[str]:
        return {
            arg
            for launch in launches
            for parameter, arg in zip(self._parameters[launch.kernel], launch.args, strict=True)
            if isinstance(arg, str) and parameter.startswith("P")
        }

    def _end(self, number: int, n_bytes: int) -> tuple[NDArray[np.uint8], str, list[_Step], int, int]:
        memory, error = ctypes.c_void_p(), ctypes.c_char_p()
        n_executions, n_steps = ctypes.c_uint64(), ctypes.c_uint64()
        is_wrong, n_switches = ctypes.c_bool(), ctypes.c_uint()
        steps = self._explorer.explorer_end(
            ctypes.c_uint64(number),
            *(ctypes.byref(each) for each in (memory, error, n_executions, is_wrong, n_switches, n_steps)),
        )
        content = np.frombuffer(ctypes.string_at(memory.value or 0, n_bytes), dtype=np.uint8)
        told = (error.value or b"").decode()
        return content, told, steps[: n_steps.value], n_executions.value, n_switches.value

    def _told(self, step: _Step, launches: Sequence[Launch], memory: _Memory) -> Step:
        place, text = self._place_of(step.site)
        return Step(
            f"{launches[step.launch].kernel} {step.block}.{step.warp}",
            step.lane,
            place,
            text,
            ("late " if step.is_late else "") + _KINDS[step.kind],
            f"shared+{step.at}" if step.is_shared else memory.where(step.at),
            step.before,
            step.after,
        )

    def _place_of(self, site: int) -> tuple[str, str]:
        """Return the line that a place in the machine code is of, as ``file:line`` and as text."""
        if site not in self._places:
            base = self._explorer.explorer_base_of(ctypes.c_void_p(site))
            command = ["addr2line", "-i", "-e", str(self._binary), hex(site - base - 1)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            places = re.findall(r"(?m)^(?:.*/)?([^/\n]+):(\d+)", told)
            found = [(file, int(line)) for file, line in places if file != "cuda_emulator.h"]
            file, line = found[0] if found else ("?", 0)
            self._places[site] = f"{file}:{line}", self._lines.get((file, line), "")
        return self._places[site]


def _lines_of(source: str, name: str) -> dict[tuple[str, int], str]:
    """Return the lines of a source by file and number, as its #line directives have them."""
    lines = {}
    file, number = name, 1
    for line in source.splitlines():
        directive = re.match(r'#line (\d+)(?: "(.*)")?', line)
        if directive:
            file, number = directive[2] or file, int(directive[1])
            continue
        lines[file, number] = line.strip()
        number += 1
    return lines
