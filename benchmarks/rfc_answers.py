"""Answer the questions of the RFC thread: run one experiment (or all), keep its figures, draw its plots.

    python benchmarks/rfc_answers.py fill
    python benchmarks/rfc_answers.py all

Progress goes to standard error, the figures as tables to standard output and as docs/answers/<name>.json,
plots beside it; docs/answers.md explains them. ``scan`` and ``density`` are measured on this machine, all
others are counted or modelled and the same anywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from answers.experiments import EXPERIMENTS
from answers.pictures import draw
from answers.tables import TABLES

from gpuscan.bench.host import describe_host
from gpuscan.cli.output import Output
from gpuscan.cli.streams import plain_streams
from gpuscan.files.writing import write_json

OUT = Path(__file__).resolve().parent.parent / "docs" / "answers"


def main(arguments: list[str]) -> int:
    """Run the experiments that are named and return an exit code."""
    names = list(EXPERIMENTS) if arguments == ["all"] else arguments
    if not names or any(name not in EXPERIMENTS for name in names):
        print(f"usage: rfc_answers.py all, or some of {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    output = Output(json_mode=False)
    with plain_streams():
        answers = {name: _answered(name, output) for name in names}
        for name, kept in answers.items():
            _show(name, kept, output)
    return 0


def _answered(name: str, output: Output) -> dict[str, Any]:
    """Run an experiment, keep what it found, and return that."""
    run, n_steps = EXPERIMENTS[name]
    with output.progress(name, n_steps, unit="steps") as progress:
        found = run(lambda what: progress.advance(1, last=what))
    draw(name, found, OUT)
    kept = {"kind": "answer", "question": name, "host": describe_host(), **found}
    if name == "place":  # every single delay is in the plot; the file keeps their quantiles
        kept |= {what: _quantiles(designs) for what, designs in found.items()}
    write_json(OUT / f"{name}.json", kept)
    output.note(f"{name}: kept in {OUT}")
    return kept


def _show(name: str, kept: dict[str, Any], output: Output) -> None:
    from rich.table import Table

    for answer in TABLES[name](kept):
        output.line(f"{name}: {answer.caption}")
        table = Table(*answer.columns, box=None, header_style="bold", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in answer.rows:
            table.add_row(*row)
        output.table(table)
        output.line()


def _quantiles(designs: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    import numpy as np

    return {
        name: {f"p{percent}_ns": float(np.percentile(result["delay_ns"], percent)) for percent in (1, 50, 99)}
        | {"of_core": result["of_core"]}
        for name, result in designs.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
