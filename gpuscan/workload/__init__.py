"""Descriptions of a machine and what runs on it: TOML files, their model, and the built-in ones."""

DEFAULT_WORKLOAD = "cxl-promote"
