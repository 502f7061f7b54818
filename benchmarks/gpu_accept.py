"""Accept a GPU: check every operation on it, then measure, in four calls of less than 8 minutes.

    python benchmarks/gpu_accept.py --call 1 --out benchmarks/results/gpu/1

Needs numpy, numba, cupy with NVRTC and the CUDA headers (``cuda-toolkit[cudart,nvrtc]``), and this
checkout; nothing is installed. Writes ``gpu.json`` and ``gpu.md``, after every result, so a run that is
killed keeps what it has. A part that fails is recorded and the next one goes on. Exit status: 0, or 1
when a check or an answer was wrong, or 3 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
# Of this checkout, whatever is installed: the figures are told apart by a hash of its kernels.
sys.path[:0] = [str(_FOLDER), str(_FOLDER.parent)]

from accept.parts import CALLS, FULL, PARTS, QUICK, child_check, child_profile  # noqa: E402 - needs the path above
from accept.record import Record, run_parts  # noqa: E402 - needs the path above
from accept.rig import CupyRig  # noqa: E402 - needs the path above
from accept.tools import CHILD_PAGES  # noqa: E402 - needs the path above

from gpuscan.base.errors import DeviceError  # noqa: E402 - needs the path above

_ENDED = 143
"""Exit status of who was asked to end, as a shell has it."""


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit status."""
    parser = argparse.ArgumentParser(description="Check gpuscan's CUDA backend on this GPU, then measure it.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "gpu-accept")),
        help="directory for gpu.json and gpu.md; by default $OUT, or gpu-accept",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, all of it in 4 minutes")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--call",
        type=int,
        choices=range(1, len(CALLS) + 1),
        help="only the parts of one call: " + "; ".join(", ".join(call) for call in CALLS),
    )
    only.add_argument("--part", action="append", choices=list(PARTS), help="only this part; may be repeated")
    parser.add_argument("--child", choices=list(CHILD_PAGES), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    # Whoever ends this at a time limit ends its child processes, too: one left over would use the GPU.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))
    try:
        rig = CupyRig(pooled=given.child is None)
    except DeviceError as error:
        print(f"gpu_accept: {error}", file=sys.stderr)
        return 3
    if given.child is not None:
        child = {"check": child_check, "profile": child_profile}[given.child]
        child(rig, CHILD_PAGES[given.child])
        return 0
    scale = QUICK if given.quick else FULL
    record = Record(given.out, rig, scale)
    names = given.part or (list(PARTS) if given.call is None else CALLS[given.call - 1])
    return run_parts(record, rig, scale, names)


if __name__ == "__main__":
    sys.exit(main())
