"""The signatures of CUDA kernels, read from their source."""

from __future__ import annotations

import re
from typing import NamedTuple

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(?P<name>\w+)\((?P<parameters>[^)]*)\)'
)
_PARAMETER = re.compile(r"(?P<const>const )?(?:gpuscan::)?(?P<type>\w+)(?P<pointer>\*)? (?P<name>\w+)")
_RECORD = re.compile(r"typedef (?P<type>unsigned \w+(?: \w+)?) record_t;")
_TYPES = {"u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64", "int": "int32", "i64": "int64"}
_RECORDS = {"unsigned char": "uint8", "unsigned int": "uint32"}


class Parameter(NamedTuple):
    """One parameter; ``dtype`` is NumPy's name for its type, or its items'; empty for a vector (uint4)."""

    name: str
    dtype: str
    is_array: bool


def declared(source: str) -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of every kernel of a complete source, in order."""
    record = _RECORD.search(source)
    assert record is not None, "the source has no record_t"
    source = _COMMENT.sub("", source)
    types = {**_TYPES, "record_t": _RECORDS[record["type"]]}
    kernels = {}
    for kernel in _KERNEL.finditer(source):
        found = [_PARAMETER.fullmatch(each.strip()) for each in kernel["parameters"].split(",")]
        assert all(found), f"{kernel['name']} has a parameter that cannot be read"
        kernels[kernel["name"]] = tuple(
            Parameter(each["name"], types.get(each["type"], ""), bool(each["pointer"]))
            for each in found
            if each
        )
    assert len(kernels) == source.count("__global__ void"), "a kernel's signature cannot be read"
    return kernels
