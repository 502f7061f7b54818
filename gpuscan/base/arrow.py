"""What others read as a table: by the Arrow C stream interface, without a file and without a copy."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class ReadAsTable:
    """Is taken as it is by what reads Arrow: ``polars.DataFrame(plan)``, ``pyarrow.table(plan)``.

    The interface is Arrow's PyCapsule Interface: ``__arrow_c_stream__``.
    """

    __slots__ = ()

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Return it as a pyarrow table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> Any:
        """Return it as a capsule that holds an ArrowArrayStream."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)
