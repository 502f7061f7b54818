"""All experiments: those in ``built_in``, and those of other packages, by ``gpuscan.experiments``."""

from __future__ import annotations

from gpuscan.base.catalogue import Catalogue
from gpuscan.reproduce.contract import Experiment

EXPERIMENTS = Catalogue("experiment", "gpuscan.reproduce.built_in", Experiment, "EXPERIMENT")
