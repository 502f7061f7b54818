"""Recorded accesses: what tools that record them write, read into one form."""

from gpuscan.traces.files import Trace, open_trace
from gpuscan.traces.samples import UNKNOWN_CPU, Samples

__all__ = ["UNKNOWN_CPU", "Samples", "Trace", "open_trace"]
