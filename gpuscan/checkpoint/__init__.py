"""Checkpoints: the state of something, on the disk, whole or not at all.

:mod:`gpuscan.checkpoint.directory` keeps the generations of one directory,
:mod:`gpuscan.checkpoint.arrays` writes the arrays of one (only chunks that changed),
:mod:`gpuscan.checkpoint.log` appends what only grows, and
:mod:`gpuscan.checkpoint.store_state` does a single :class:`gpuscan.store.single.Store`.
docs/checkpoint.md has the layout on disk, docs/notes/checkpoint.md the argument.
"""
