"""Descriptions of a machine and what runs on it: TOML files, their model, and the built-in ones."""

DEFAULT_WORKLOAD = "cxl-promote"
DEFAULT_COMPARISON = "cxl-interleave"
"""What ``gpuscan compare`` takes: pages of each zone go to several nodes, where designs differ most."""
DEFAULT_COMPARISON_MEMORY = "16GiB"
"""On a machine of which size, where none is asked for: all designs take three and a half minutes then."""
