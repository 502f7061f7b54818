"""The named steps that designs are made of, measured here: scans, marks, and what a neighbour is beside.

A design declares which are its own (:mod:`gpuscan.designs.contract`), or brings some of its own.
"""
