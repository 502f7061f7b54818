"""What a scan returns: claimed pages by target, which may still be on their way from a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


class RawPlan:
    """Claimed pages grouped by target, flat order inside a group.

    All but ``flat`` and ``words`` is known as soon as the scan returns. These two may still be on
    their way from a device; whoever reads them waits for it. Or the backend has them in a form of its
    own, of fewer bytes; whoever reads them has them made, all or a part.

    Attributes:
        offsets: int64[n_targets + 1]; target t has ``flat[offsets[t]:offsets[t + 1]]``.
        cursor: first flat page not covered; ``hi`` when the range is done.
        path: the path taken, and ``why`` in words.
        examined_pages, examined_bytes: records read (pages) and bytes read in all, counted not modelled.
        n_unknown_target: READY words whose NID is not below n_targets; such a page is
            claimed and appears in no group (nothing in gpuscan writes one; a loaded image may).
        n_superseded: claims that did not fit, because producers added more during the scan,
            and that could not be put back, because their pages were READY again: ended.
        unpack: where ``flat`` and ``words`` are not given, what makes elements ``[lo, hi)`` of both, in
            arrays of their own.
        arrive: what waits for the arrays, None where they are there; see :meth:`wait`.
        on_recycle: what takes the arrays back.
        owns_arrays: whether ``flat`` and ``words`` stay what they are when the plan is recycled; what is made
            when it is read does.
    """

    __slots__ = (
        "__weakref__",
        "_arrive",
        "_flat",
        "_on_recycle",
        "_unpack",
        "_words",
        "cursor",
        "examined_bytes",
        "examined_pages",
        "n_superseded",
        "n_unknown_target",
        "offsets",
        "owns_arrays",
        "path",
        "why",
    )

    def __init__(
        self,
        *,
        offsets: NDArray[np.int64],
        flat: NDArray[np.int64] | None = None,
        words: NDArray[Any] | None = None,
        cursor: int,
        path: Literal["dense", "indexed"],
        why: str,
        examined_pages: int,
        examined_bytes: int,
        n_unknown_target: int = 0,
        n_superseded: int = 0,
        unpack: Callable[[int, int], tuple[NDArray[np.int64], NDArray[Any]]] | None = None,
        arrive: Callable[[], None] | None = None,
        on_recycle: Callable[[], None] | None = None,
        owns_arrays: bool = False,
    ) -> None:
        self.offsets = offsets
        self.cursor = cursor
        self.path: Literal["dense", "indexed"] = path
        self.why = why
        self.examined_pages = examined_pages
        self.examined_bytes = examined_bytes
        self.n_unknown_target = n_unknown_target
        self.n_superseded = n_superseded
        self._flat = flat
        self._words = words
        self._unpack = unpack
        self._arrive = arrive
        self._on_recycle = on_recycle
        self.owns_arrays = owns_arrays or unpack is not None

    @property
    def flat(self) -> NDArray[np.int64]:
        """int64[n], heads. Raises as :meth:`wait`."""
        return self._arrays()[0]

    @property
    def words(self) -> NDArray[Any]:
        """fmt.dtype[n], the words the claims took. Raises as :meth:`wait`."""
        return self._arrays()[1]

    @property
    def n_folios(self) -> int:
        """How many folios were claimed."""
        return int(self.offsets[-1])

    def part(self, lo: int, hi: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return elements ``[lo, hi)`` of ``flat`` and ``words``; makes no others. Raises as :meth:`wait`."""
        if self._unpack is not None and self._flat is None:
            return self._unpack(lo, hi)
        flat, words = self._arrays()
        return flat[lo:hi], words[lo:hi]

    def _arrays(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        self.wait()
        if self._flat is None or self._words is None:
            assert self._unpack is not None, "a plan is given its arrays, or what makes them"
            self._flat, self._words = self._unpack(0, self.n_folios)
        return self._flat, self._words

    @property
    def has_arrived(self) -> bool:
        """Whether the arrays are in host memory; where they come later, False until somebody waited."""
        return self._arrive is None

    def wait(self) -> None:
        """Wait until the arrays are in host memory.

        Raises:
            Whatever went wrong on the way (KeyboardInterrupt too), after every claim of this plan
            was put back; then RuntimeError, at every further call.
        """
        arrive = self._arrive  # another thread may wait, too
        if arrive is not None:
            arrive()
            self._arrive = None

    def tell_failures(self, told: Callable[[Exception], Exception]) -> None:
        """Raise what goes wrong on the way to the host as ``told`` makes it; no interrupt is told.

        For a backend around another one: the failure is its device's.
        """
        arrive = self._arrive
        if arrive is None:
            return

        def arrive_or_tell() -> None:
            try:
                arrive()
            except Exception as error:
                raise told(error) from error

        self._arrive = arrive_or_tell

    def because(self, why: str) -> RawPlan:
        """Return it with another reason for its path."""
        self.why = why
        return self

    def recycle(self) -> None:
        """Give the arrays back to the backend for its next plan; they must not be used afterwards.

        Optional: a plan that is never recycled keeps arrays of its own. Waits as :meth:`wait`.
        """
        self.wait()
        if self.owns_arrays:
            self._unpack, self._flat, self._words = _refuse_to_unpack, None, None
        on_recycle, self._on_recycle = self._on_recycle, None
        if on_recycle is not None:
            on_recycle()


def _refuse_to_unpack(lo: int, hi: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    raise RuntimeError("a plan is read that was recycled; read it before")
