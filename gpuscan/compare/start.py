"""What the machines of a comparison start with: what a workload places, or the frames of a captured one.

Each loop of each design has a machine of its own, in a process of its own; the frames of a captured machine
lie in files, so that none of these processes needs a copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from gpuscan.files.writing import create, writing_to
from gpuscan.sim.captured import CapturedFrames, captured_contents
from gpuscan.sim.placement import Contents, place
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The frames of a captured machine, an array in a file each: ``frames-<name>.npy``.

    Attributes:
        directory: of the files.
    """

    directory: Path

    @classmethod
    def write(cls, frames: CapturedFrames, directory: Path) -> FrameFiles:
        """Write frames into a directory, which must exist.

        Raises:
            RunFailedError: they cannot be written.
        """
        files = cls(directory)
        for place_of in fields(frames):
            path = files.path(place_of.name)
            with writing_to(path), create(path) as file:
                np.save(file, getattr(frames, place_of.name))
        return files

    def read(self) -> CapturedFrames:
        """Return the frames, mapped read-only."""
        return CapturedFrames(
            *(np.load(self.path(place_of.name), mmap_mode="r") for place_of in fields(CapturedFrames))
        )

    def path(self, name: str) -> Path:
        """Return the file of an array."""
        return self.directory / f"frames-{name}.npy"


def contents_of(
    topology: Topology, spec: MachineSpec, frames: FrameFiles | None
) -> tuple[MachineSpec, Contents]:
    """Return what a machine starts with, and its description.

    Args:
        topology, spec: of the machine.
        frames: of a captured one, which has its own memory instead of what the description places.

    Raises:
        InputError: the description does not fit the machine.
    """
    if frames is None:
        return spec, place(topology, spec)
    return captured_contents(topology, frames.read(), spec)
