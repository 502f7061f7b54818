"""What the drivers ask of a device: memory, copies, and kernels by name.

The drivers know nothing else about it, so the same drivers and the same kernels run on
CuPy (:mod:`gpuscan.kernels.cuda.cupy_device`) and wherever the tests execute them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

Kernel = Callable[[tuple[int], tuple[int], tuple[Any, ...]], None]
"""``kernel((n_blocks,), (n_threads,), args)`` as ``cupy.RawKernel``: arrays of the device, NumPy scalars."""


class Device(Protocol):
    """A device that kernels run on. Arrays are one-dimensional, C-contiguous, aligned to 16 bytes or more.

    Kernels and copies that are begun inside :meth:`working` run one after the other.
    """

    def describe(self) -> str:
        """Return one line: what it is."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory can still be allocated."""
        ...

    def compile(self, source: str) -> Callable[[str], Kernel]:
        """Return what finds a kernel of a CUDA C++ source by its name."""
        ...

    def working(self) -> AbstractContextManager[None]:
        """Return the context that all methods below are called in."""
        ...

    def zeros(self, length: int, dtype: Any) -> Any:
        """Allocate zeros.

        Raises:
            DeviceError: not enough memory.
        """
        ...

    def empty(self, length: int, dtype: Any) -> Any:
        """Allocate without initialising; raises as :meth:`zeros`."""
        ...

    def clear(self, array: Any) -> None:
        """Begin to make a device array zeros."""
        ...

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy on the device; raises as :meth:`zeros`."""
        ...

    def write(self, array: Any, content: NDArray[Any]) -> None:
        """Overwrite a device array."""
        ...

    def adopt(self, array: Any) -> Any:
        """Return an array that another library has on this device, without a copy: what is begun from now on
        comes after what its stream was given so far.

        Args:
            array: has ``__cuda_array_interface__``, or DLPack's methods.

        Raises:
            ArgumentError: it is on another device, or cannot be read.
        """
        ...

    def address(self, array: Any) -> int:
        """Return where a device array begins, as kernels see it."""
        ...

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        """Begin to overwrite a device array from memory of :meth:`host_empty`, which stays as it is until
        something was waited for.
        """
        ...

    def wait(self) -> None:
        """Wait for what was begun."""
        ...

    def fetch(self, array: Any) -> NDArray[Any]:
        """Wait for what was begun, and return a copy in host memory; ``array`` may be a strided view."""
        ...

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        """Wait for what was begun, and copy an array into host memory of :meth:`host_empty`."""
        ...

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        """Allocate host memory that copies from the device are fast to (pinned)."""
        ...

    def pinned_zeros(self, n_bytes: int) -> tuple[Any, NDArray[Any]]:
        """Allocate zeros in pinned memory of the host that kernels reach: uint8[n_bytes], as they see it, and
        as the host does.

        Raises:
            DeviceError: it cannot be had.
        """
        ...

    def why_no_reach(self) -> str:
        """Say why kernels have no atomics on any memory of this process; empty if they have."""
        ...

    def reach(self, memory: NDArray[Any]) -> Any:
        """Return memory of this process as kernels see it, without a copy; not where :meth:`why_no_reach`
        says why.
        """
        ...

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        """Begin to copy device arrays into host arrays of the same lengths, beside what is begun later.

        Returns:
            What waits for the copies, at its first call; may be called outside :meth:`working`, in any
            thread. It keeps both sides of every copy alive until then.
        """
        ...
