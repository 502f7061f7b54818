"""What is said around the table of a comparison: what it is of, what was left out, what saw too little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuscan.base.units import format_bytes, format_count, format_time


def about(document: Mapping[str, Any]) -> list[str]:
    """Return lines for above the table: the workload, the machine, both loops, who was left out."""
    machine, workload = document["machine"], document["workload"]
    opened, closed = document["open_loop"][0], document["closed_loop"][0]
    horizon = format_time(closed["horizon_ns"])
    cut = opened["requests"] < opened["of"]
    of_time = f"the first {format_time(opened['end_ns'])} of {horizon}" if cut else horizon
    lines = [
        f"{workload['name']}: {workload['shows']}",
        f"on {machine['topology']}, {format_bytes(machine['memory_bytes'])} in {machine['n_nodes']} nodes",
        f"open loop: {of_time}, {opened['requests']:,} requests, the same for all, nothing moves",
        f"closed loop: {horizon}, {format_count(closed['accesses'])} accesses, the same for all, a machine "
        "for each",
    ]
    seeds = document["seeds"]
    if len(seeds) > 1:
        lines.append(f"seeds {seeds[0]} to {seeds[-1]}: the median, and half of the spread behind the ±")
    return lines + [f"left out: {name} {why}" for name, why in document["left_out"].items()]


def below(document: Mapping[str, Any]) -> list[str]:
    """Return lines for below the table: who saw too little, what a walk takes here, the measured steps."""
    lines = [f"too little to judge by: {name} {why}" for name, why in document["saw_too_little"].items()]
    return [
        *lines,
        *_walks(document),
        "steps, measured here: " + "; ".join(map(_step_text, document["model"]["steps"].values())),
    ]


def _walks(document: Mapping[str, Any]) -> list[str]:
    """Say what a walk of the machine's memory takes."""
    walk = document["walk_here"]
    by_time: dict[str, list[str]] = {}
    for name, ns in walk["ns"].items():
        by_time.setdefault("no figure" if ns is None or ns != ns else format_time(ns), []).append(name)
    if not by_time:
        return []
    times = "; ".join(f"{time} ({', '.join(names)})" for time, names in by_time.items())
    return [
        f"here a walk of your memory, {format_bytes(walk['memory_bytes'])}, would take {times}, with one "
        f"page in {1 / document['model']['density']:,.0f} marked"
    ]


def _step_text(step: Mapping[str, Any]) -> str:
    if step["fixed_ns"] is None:
        return f"{step['what']}: {step['why_not']}"
    terms = ", ".join(f"{ns:.3g} ns per {term}" for term, ns in step["terms_ns"].items())
    return (
        f"{step['what']} {format_time(step['fixed_ns'])} and {terms} "
        f"(off by up to {step['error']:.0%} at sizes left out)"
    )
