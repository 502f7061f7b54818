"""All helpers of the kernel: those in ``built_in``, and those of other packages by ``gpuscan.helpers``."""

from __future__ import annotations

from gpuscan.base.catalogue import Catalogue
from gpuscan.service.helpers.contract import HelperKind

OWN = "gpuscan"
"""What ``backend`` of a rule is where gpuscan itself moves the pages."""
ANY = "kernel"
"""And where any helper will do: the first that can carry out the rule here."""

HELPERS = Catalogue("helper", "gpuscan.service.helpers.built_in", HelperKind, "HELPER")
