"""Every error a user can cause or meet, each with its exit code.

A message is one sentence: the cause, the place (file, line, key) and what to do.
"""

from __future__ import annotations


class GpuscanError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the CLI returns."""

    exit_code = 1


class RunFailedError(GpuscanError):
    """The run itself failed: a disk filled, an invariant broke, a stage stopped."""


class DeviceFailedError(RunFailedError):
    """A device failed in the middle of a run: out of memory, an exception in a kernel, a lost driver."""


class InputError(GpuscanError):
    """Wrong usage or input: an unknown name, key or unit, a broken file."""

    exit_code = 2


class ArgumentError(InputError, ValueError):
    """A value of the wrong type, shape or range was given to the library; the call changed nothing.

    What a Python programmer gets wrong is this one, whatever it is (it is a ValueError too); what is wrong
    with a machine, a file or a device has its own.
    """


class TopologyError(InputError):
    """A topology that contradicts itself: one PFN in two zones, a target that is not there."""


class SnapshotError(InputError):
    """A snapshot that cannot be read: cut short, or written by a newer schema."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read: damaged, of a newer schema, or of something else."""


class DeviceError(GpuscanError):
    """The device asked for is not there, or cannot hold what was asked."""

    exit_code = 3
