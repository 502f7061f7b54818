"""Print, as Markdown, the bars that gpuscan set itself beside what a recorded run reached.

    python benchmarks/bars.py benchmarks/results/bench.json

The bars hold for 1 TiB, 16 targets, uniform positions, 2 cores. Times of gpuscan are
those with flushed caches unless the bar says warm; "Polars" is the faster of its two engines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

TIB_PAGES = 1 << 28
Bar = tuple[str, str, str, bool | None]
"""What must show, the bar, what was reached, and whether that is enough (None: no bar)."""


class Recorded:
    """A recorded run."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def cases(self, n_targets: int = 16, **wanted: Any) -> list[dict[str, Any]]:
        """Return uniform scans with these facts, of ``rfc`` if no format is among them, most rows last."""
        wanted = {"n_targets": n_targets, "format": "rfc", "clustering": "uniform"} | wanted
        found = [
            case
            for case in self.document["scans"]
            if all(case[key] == value for key, value in wanted.items())
        ]
        return sorted(found, key=lambda case: len(case["results"]))

    def at_1tib(self) -> list[dict[str, Any]]:
        """Return one scan of 1 TiB per density, ascending; of several the one that has peers."""
        by_density = {case["density"]: case for case in self.cases(n_pages=TIB_PAGES)}
        return [by_density[density] for density in sorted(by_density)]


def row_of(case: dict[str, Any], name: str, state: str = "cold") -> dict[str, Any]:
    """Return one row of a case."""
    return next(row for row in case["results"] if row["name"] == name and row["state"] == state)


def of_floor_by_round(case: dict[str, Any]) -> float:
    """Return the median of dense over floor, each of one round: memory changes its pace between rounds."""
    dense, floor = row_of(case, "gpuscan dense")["runs_ns"], row_of(case, "read")["runs_ns"]
    return median(ours / least for ours, least in zip(dense, floor, strict=True))


def at_most(what: str, bar: float, reached: float, unit: str = "x") -> Bar:
    """Return a bar that a figure must not exceed."""
    return what, f"<= {bar:g}{unit}", f"{reached:.3g}{unit}", reached <= bar


def at_least(what: str, bar: float, reached: float, unit: str = "x") -> Bar:
    """Return a bar that a figure must reach."""
    return what, f">= {bar:g}{unit}", f"{reached:.3g}{unit}", reached >= bar


def by_density(density: float, low: float, middle: float, high: float) -> float:
    """Return the bar up to 1e-3, up to 1e-2, and above."""
    return low if density <= 1e-3 else middle if density <= 1e-2 else high


def scan_bars(run: Recorded) -> Iterator[Bar]:
    """Yield the bars of single scans."""
    for case in run.at_1tib():
        density, dense = case["density"], row_of(case, "gpuscan dense")
        # Where most lines are written back, reading them is not what bounds a scan.
        of_bytes = dense["median_ns"] / case["floors"]["dense_bytes_ns"]
        if density == 1.0:
            yield at_most("dense / byte floor, every page READY", 2.2, of_bytes)
        elif density == 1e-1:
            yield at_most(f"dense / byte floor at {density:g}", 1.5, of_bytes)
        elif density == 3e-2:
            yield f"dense / read floor at {density:g}", "reported", f"{dense['of_floor']:.3g}x", None
        else:
            bar = 1.15 if density <= 1e-3 else 1.7
            yield at_most(f"dense / read floor at {density:g}", bar, dense["of_floor"])
    for case in run.at_1tib():
        if case["density"] == 1e-2:
            auto = row_of(case, "gpuscan auto")
            yield at_most("auto / read floor at 0.01", 1.25, auto["of_floor"])
    for case in run.at_1tib():
        density, faster = case["density"], row_of(case, "gpuscan dense")["faster_than"]
        polars = [ratio for name, ratio in faster.items() if name.startswith("polars")]
        if polars:
            # Where nothing is READY both read the records once: the rest is the peer's own distance from it.
            bar = 1.5 if density < 1e-5 else by_density(density, 1.7, 2.0, 2.0 if density < 1e-1 else 6.0)
            yield at_least(f"Polars / dense at {density:g}", bar, min(polars))
    for case in run.at_1tib():
        numpy = row_of(case, "gpuscan auto")["faster_than"].get("numpy")
        if numpy is not None:
            yield at_least(f"NumPy / auto at {case['density']:g}", 10, numpy)
    for case in run.at_1tib():
        for state in ("warm", "cold"):
            dense, indexed, auto = (
                row_of(case, f"gpuscan {path}", state)["median_ns"] for path in ("dense", "indexed", "auto")
            )
            best = min(dense, indexed)
            what = f"auto / better path at {case['density']:g}, {state}"
            reached = f"{auto / best:.3g}x, {(auto - best) / 1e3:+.0f} us"
            yield what, "<= 1.1x or +50 us", reached, auto <= max(1.1 * best, best + 50_000)


def index_bars(run: Recorded) -> Iterator[Bar]:
    """Yield the bars of the indexed scan."""
    # At 1e-6 a cold call with nothing READY takes 0.19 ms. At 1e-4 a warm one comes after a dense scan, which
    # has read 1 GiB (docs/notes/cpu-scan.md, "Bars that were replaced").
    for density, warm_ms, cold_ms in ((1e-6, 0.05, 0.25), (1e-4, 1.0, 1.5)):
        for case in run.cases(n_pages=TIB_PAGES, density=density)[-1:]:
            for state, bar in (("warm", warm_ms), ("cold", cold_ms)):
                reached = row_of(case, "gpuscan indexed", state)["median_ns"] / 1e6
                yield at_most(f"indexed at {density:g}, {state}", bar, reached, " ms")
            if density == 1e-4:
                times = case["floors"]["read_ns"] / row_of(case, "gpuscan indexed")["median_ns"]
                yield at_least("read floor / indexed at 0.0001, cold", 20, times)


def other_bars(run: Recorded) -> Iterator[Bar]:
    """Yield the bars of targets, memory, requests and growth."""
    few, many = (run.cases(n_targets, n_pages=TIB_PAGES, density=1e-2)[-1:] for n_targets in (16, 1024))
    for one, other in zip(few, many, strict=False):
        # Each against the floor of its own rounds: the two were not run in turn.
        reached = row_of(other, "gpuscan dense")["of_floor"] / row_of(one, "gpuscan dense")["of_floor"]
        yield at_most("1,024 targets / 16 targets, dense at 0.01", 1.2, reached)
    for case in run.at_1tib():
        if case["extra_bytes"] is None:
            continue
        share = 100 * case["extra_bytes"] / case["record_bytes"]
        what = f"memory beyond the store, of the records, at {case['density']:g}"
        yield (
            at_most(what, 5, share, " %")
            if case["density"] <= 1e-2
            else (what, "bounded", f"{share:.3g} %", None)
        )
    for case in run.document["requests"]:
        if case["n_pages"] == TIB_PAGES:
            request = row_of(case, "gpuscan request, random PFNs")
            yield at_least("random requests", 45, request["per_s"] / 1e6, " M/s")
            yield at_least("random requests / random writes", 0.42, request["of_ceiling"])
            ascending = row_of(case, "gpuscan request, ascending PFNs")
            yield at_least("ascending requests", 150, ascending["per_s"] / 1e6, " M/s")
    for case in run.cases(1, format="pghot-compact", n_pages=TIB_PAGES, density=1e-2)[-1:]:
        # What must be written is half of what is read there: docs/notes/cpu-scan.md.
        reached = row_of(case, "gpuscan dense")["median_ns"] / case["floors"]["dense_bytes_ns"]
        yield at_most("dense / byte floor, pghot-compact at 0.01", 1.6, reached)
    for density in (1e-4, 1e-3):
        large = [case for case in run.cases(density=density) if case["n_pages"] >= 1 << 27]
        sizes = {case["n_pages"]: case for case in large}
        if len(sizes) > 1:
            span = f"2^{min(sizes).bit_length() - 1} to 2^{max(sizes).bit_length() - 1} pages at {density:g}"
            floors = [of_floor_by_round(case) for case in sizes.values()]
            what = f"dense / floor by round, most over least, {span}"
            yield at_most(what, 1.15, max(floors) / min(floors))
            each = [row_of(case, "gpuscan indexed")["median_ns"] / case["n_ready"] for case in sizes.values()]
            reached = f"{min(each):.3g} to {max(each):.3g} ns"
            yield f"indexed, per READY page, {span}", "proportional", reached, None


def main(path: Path) -> None:
    """Print the table."""
    document = json.loads(path.read_text(encoding="utf-8"))
    run, host = Recorded(document), document["host"]
    print(f"{host['cpu']}, {document['settings']['n_threads']} threads, recorded {host['recorded']}\n")
    print("| | bar | reached | |\n|---|---|---|---|")
    verdict = {True: "yes", False: "**no**", None: ""}
    for bars in (scan_bars(run), index_bars(run), other_bars(run)):
        for what, bar, reached, enough in bars:
            print(f"| {what} | {bar} | {reached} | {verdict[enough]} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
