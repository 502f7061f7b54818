"""What a file is, what is in it, and what can be done with it."""

from gpuscan.inspection.catalogue import inspect
from gpuscan.inspection.contract import Findings

__all__ = ["Findings", "inspect"]
