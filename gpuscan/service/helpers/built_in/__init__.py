"""Helpers that come with gpuscan, one file each."""
