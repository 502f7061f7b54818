"""Asks a program for records without a pause and compares each answer.

Prints JSON Lines several times a second. Ends after the request under way when it gets SIGTERM.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from . import records
from .catalogue import NAMES, load

REPORT_S = 0.25
WRITE_EVERY = 20


def main() -> None:
    """Ask until told to end."""
    parser = argparse.ArgumentParser(prog="client", description=__doc__)
    parser.add_argument("program", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", type=int, help="the CPU it stays on")
    parser.add_argument("--stays", action="store_true", help="connected, also where it would connect anew")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    program = load(options.program)(options.folder)
    sums = list(itertools.accumulate(program.shares()))
    drawn = random.Random(1)
    n_a_connection = 0 if options.stays else program.n_requests_a_connection
    conversation = program.connect()
    n_requests = n_writes = n_read = 0
    longest_gap_s = 0.0
    answered_s = reported_s = time.monotonic()
    while not told:
        n_requests += 1
        if n_requests % WRITE_EVERY == 0:
            n_writes += 1
            conversation.ask(*program.write(records.written_by(n_writes), n_writes))
        else:
            numbers = sorted(set(drawn.choices(range(records.N_READ), cum_weights=sums, k=records.N_AT_ONCE)))
            conversation.ask(*program.read(numbers))
            n_read += len(numbers)
        if n_a_connection and n_requests % n_a_connection == 0:
            conversation.close()
            conversation = program.connect()
        now_s = time.monotonic()
        longest_gap_s = max(longest_gap_s, now_s - answered_s)
        answered_s = now_s
        if now_s - reported_s >= REPORT_S or told:
            reported_s = now_s
            said = {"t_s": now_s, "n_read": n_read, "n_writes": n_writes, "longest_gap_s": longest_gap_s}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            longest_gap_s = 0.0


if __name__ == "__main__":
    main()
