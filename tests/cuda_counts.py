"""What the kernels' machine code takes, for the model of their times: registers, shared bytes, instructions.

``python tests/cuda_counts.py`` counts again and writes ``gpuscan/bench/gpu/counts.json``, so the model needs
no compiler. A way is the shortest one: what a loop's round, or a kernel from begin to end, issues at least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpuscan.bench.gpu.counts as recorded
from cuda_compiler import compiled, usage
from cuda_paths import Paths, paths, rows_of
from gpuscan.files.writing import json_text, write_file

FILE = Path(recorded.__file__).with_name(recorded.FILE)
FORMATS = ("rfc", "pghot", "pghot-compact")
ARCHITECTURES = (90, 100)
"""Those of the GPUs in the model's catalogue."""

Ways = dict[str, int]
CLAIMS_AHEAD = 4
"""Rounds of claims that the scatter has in flight (GS_CLAIMS_AHEAD)."""


def _after(places: list[int], place: int) -> list[int]:
    return [each for each in places if each > place]


def _whole(found: Paths, *by: int) -> int:
    """Return what a kernel issues from begin to end on the shortest way by some places."""
    edges = [0, *by]
    ends = found.places(r"^EXIT")
    last = min(found.n_between(edges[-1], end) for end in ends)
    return int(sum(found.n_between(*pair) for pair in itertools.pairwise(edges)) + last)


def _claim(found: Paths, after: int) -> int:
    (exchange, *_) = _after(found.places(r"ATOMG\.E\.CAS"), after)
    looks = [place for place in found.places(r"\bLDG\.E\.STRONG") if after < place < exchange]
    stages = _after(found.places(r"\bSTG"), exchange)
    return int(min(found.n_round(look, exchange, stage) for look in looks for stage in stages))


def _dense(found: Paths) -> Ways:
    first, *_, last = found.places(r"LDG\.E\.128")
    (mask, *_) = found.places(r"LDG\.E\.U8")
    (clears,) = found.places(r"STG\.E\.128\.STRONG")
    plain = found.n_round(first)
    queued = min(found.n_round(first, place) for place in _after(found.places(r"\bSTS "), last))
    rows = rows_of(found)
    return {
        "once": _whole(found, first),
        "section": int(found.n_round(mask, first) - plain),
        "clears": int(found.n_round(clears)),
        "plain": int(plain),
        "queued": int(queued - plain),
        "claim": _claim(found, last),
        **({} if rows is None else {"rows": rows}),
        **_places(found),
    }


def _places(found: Paths) -> Ways:
    """Return what the last block of a scan issues when all others are done, and for more targets."""
    row, last = found.places(r"ATOMG\.E\.ADD\.STRONG")
    (of_row, *_), (of_all, *_) = (
        [place for place in _after(found.places(r"LDG\.E\.64\.STRONG"), after) if place < before]
        for after, before in ((row, last), (last, len(found.instructions)))
    )
    offset = found.places(r"STG\.E\.64 desc")[-2]
    whole = [found.n_between(*pair) for pair in itertools.pairwise((row, of_row, last, of_all, offset))]
    ends = min(found.n_between(offset, end) for end in _after(found.places(r"^EXIT"), offset))
    return {"places": int(sum(whole) + ends), "addends": int(found.n_round(of_row) + found.n_round(of_all))}


def _walk(found: Paths, crowds: bool = True) -> Ways:
    """Return the ways of a kernel that follows the index."""
    taken = found.places(r"ATOMG\.E\.EXCH\.64")[:8]
    words = taken or found.places(r"LDG\.E\.128")
    sections = found.places(r"LDG\.E\.U8")[0]
    queues = _after(found.places(r"\bSTS "), words[-1])
    ways = {
        "once": _whole(found, words[0]),
        "sections": int(found.n_round(sections)),
        "blocks": int(found.n_round(words[0], words[-1])),
        "queue": int(min(found.n_round(place) for place in queues)),
    }
    if crowds:  # a block's candidates by all lanes, 16 halves of its ready words
        ways["crowded"] = int(found.n_round(*queues[:16]))
    if taken:
        return {**ways, "claim": _claim(found, words[-1]), **_places(found)}
    (match, *_) = _after(found.places(r"\bMATCH"), words[-1])
    return {**ways, "claim": int(found.n_round(match))}


def _popcounts(found: Paths) -> Ways:
    words = found.places(r"LDG\.E\.128")
    mask = found.places(r"LDG\.E\.U8")[0]
    (cell, *_) = _after(found.places(r"LDG\.E\.64\.STRONG"), words[-1])
    return {
        "once": _whole(found, mask),
        "sections": int(found.n_round(mask)),
        "blocks": int(found.n_round(words[0], words[-1])),
        "cells": int(found.n_round(cell)),
    }


def _cut_stretches(found: Paths) -> Ways:
    blocks = found.places(r"LDG\.E\.128")[-1]
    sections = [place for place in found.places(r"LDG\.E R") if place < blocks][-1]
    cells = [place for place in found.places(r"LDG\.E\.64\.STRONG") if place < sections]
    stores = _after(found.places(r"\bSTG\.E\.64"), blocks)
    return {
        "once": _whole(found, cells[-1], sections, blocks, stores[0]),
        "cells": int(max(each for each in map(found.n_round, cells) if each < math.inf)),
        "sections": int(found.n_round(sections)),
    }


def _scatter(found: Paths) -> Ways:
    flats = found.places(r"STG\.E\.64")
    counts = [place for place in found.places(r"\bMATCH") if place < flats[0]]
    loads = found.places(r"LDG\.E")
    ways = {"once": _whole(found, found.places(r"BAR\.SYNC")[-1])}
    for name, groups in (("count", counts[:CLAIMS_AHEAD]), ("place", flats[:CLAIMS_AHEAD])):
        # 32 claims, then up to three times as many at once; those behind the first 128 are loaded.
        one, all_of_them = found.n_round(groups[0]), found.n_round(*groups)
        ways_round = (found.n_round(load, groups[0]) for load in loads)
        loaded = min((each for each in ways_round if each < math.inf), default=one)  # a fixed target is not
        ways |= {name: int(one), f"{name}_load": int(loaded - one)}
        ways[f"{name}_more"] = math.ceil((all_of_them - one) / (CLAIMS_AHEAD - 1))
    return ways


def _resolve(found: Paths) -> Ways:
    (claim, *_) = found.places(r"ATOMG\.E\.CAS\.64")
    last = found.places(r"REDG?\.E\.MAX")[-1]
    return {"item": _whole(found, claim, last, found.places(r"STG\.E ")[-1])}


def _request(found: Paths) -> Ways:
    (exchange, *_) = found.places(r"ATOMG\.E\.CAS")
    ready, block, *_ = _after(found.places(r"ATOMG\.E\.OR\.64"), exchange)
    (node, *_) = _after(found.places(r"LDG\.E\.STRONG"), block)
    return {"item": _whole(found, exchange, ready, block, node)}


def _cut_keys(found: Paths) -> Ways:
    (load, *_) = found.places(r"LDG\.E\.64")
    return {"once": _whole(found, load), "keys": int(found.n_round(load))}


KERNELS: dict[str, Callable[[Paths], Ways]] = {
    "popcounts": _popcounts,
    "cut_stretches": _cut_stretches,
    "scan_dense": _dense,
    "scan_indexed": _walk,
    "scan_dense_budget": _dense,
    "scan_indexed_budget": partial(_walk, crowds=False),
    "scatter": _scatter,
    "rank": _walk,
    "resolve": _resolve,
    "request": _request,
}


def counted(format_name: str, architecture: int) -> dict[str, Any]:
    """Return what the kernels of one module take, by name."""
    cubin = compiled(format_name, False, architecture)
    uses = usage(cubin)
    return {
        name: {
            "registers": uses[name].registers,
            "shared_bytes": uses[name].shared,
            "ways": ways(paths(cubin, name)),
        }
        for name, ways in KERNELS.items()
    }


if __name__ == "__main__":
    found = {name: {str(each): counted(name, each) for each in ARCHITECTURES} for name in FORMATS}
    write_file(FILE, json_text({"modules": found}) + "\n")
