"""The page record: the bits kept per page, all formats from one table.

``FORMATS`` is the only place where the shifts of a store's records are written. Python packs
and unpacks with it, the Numba kernels are given its numbers as arguments
(:class:`gpuscan.kernels.cpu.arguments.Fields`), and the CUDA prelude is generated from it
(:func:`c_prelude`).

Layouts, least significant bit first::

    rfc            u32  READY:1  NID:10  FREQ:3  TIME:18
    pghot          u32  NID:10  FREQ:3  TIME:14  spare:4  READY:1
    pghot-compact  u8   FREQ:2  TIME:5  READY:1           (no NID: one configured target)
    rfc-page-ext   u64  page_owner:2  READY:1  NID:10  FREQ:3  TIME:18  spare:30

``rfc`` is the 32 bits of "RFC PATCH v1 3/4, mm: kmigrated" (2025-06-16,
include/linux/page_ext.h) shifted down by ``PAGE_EXT_MIGRATE_READY``, which is 2
on 64-bit (PAGE_EXT_OWNER and PAGE_EXT_OWNER_ALLOCATED come first; YOUNG and IDLE
exist on 32-bit only). ``rfc-page-ext`` is that word in place, for import and
export. ``pghot`` and ``pghot-compact`` are the precise and the default mode of
its successor series "mm: Hot page tracking and promotion".

TIME is in jiffies, cut to its width, so ages are modulo 2**width; the compact
format counts buckets of 128 jiffies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.base.arguments import shown
from gpuscan.base.errors import ArgumentError, InputError

N_NODES_MAX = 1024
"""NIDs fit 10 bits (CONFIG_NODES_SHIFT is at most 10 on x86-64 and arm64)."""

STORE_BITS = (8, 32)
"""Widths of records that kernels are made for: CUDA changes 1-byte records in the 32-bit word around them."""
_IMPORTED_BITS = (*STORE_BITS, 64)
_C_TYPES = {8: "unsigned char", 32: "unsigned int", 64: "unsigned long long"}

AGE_BUCKET_BITS = 6
"""Budgets rank records of one FREQ by age in 2**6 buckets."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: its lowest bit and its width in bits (0 = not there)."""

    shift: int
    width: int

    @property
    def max(self) -> int:
        """Largest value the field holds; also its mask before shifting."""
        return (1 << self.width) - 1

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return self.max << self.shift


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """A record layout. ``bits`` is the width of the word; ``importable_only`` words are never scanned.

    Raises:
        ArgumentError: no kernel works on words of that width, or they do not hold the fields.
    """

    name: str
    bits: int
    ready: Field
    nid: Field
    freq: Field
    time: Field
    jiffies_shift: int = 0
    """TIME counts units of ``1 << jiffies_shift`` jiffies."""
    importable_only: bool = False

    def __post_init__(self) -> None:
        widths = _IMPORTED_BITS if self.importable_only else STORE_BITS
        if self.bits not in widths:
            raise ArgumentError(
                f"record format {self.name}: no kernel works on records of {shown(self.bits)} bits; "
                f"give {' or '.join(map(str, widths))}"
            )
        if self.ready.width != 1:
            raise ArgumentError(
                f"record format {self.name}: ready has {self.ready.width} bits; give it a width of 1"
            )
        taken = 0
        for label, place in self.fields().items():
            if place.shift < 0 or place.width < 0 or place.shift + place.width > self.bits:
                raise ArgumentError(
                    f"record format {self.name}: {label} is outside its {self.bits} bits; move it into them"
                )
            if taken & place.mask:
                raise ArgumentError(
                    f"record format {self.name}: {label} overlaps another field; give it bits of its own"
                )
            taken |= place.mask

    def fields(self) -> dict[str, Field]:
        """Return the fields by name."""
        return {"ready": self.ready, "nid": self.nid, "freq": self.freq, "time": self.time}

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of one record."""
        return np.dtype(f"u{self.bits // 8}")

    @property
    def n_bytes(self) -> int:
        """Bytes of one record."""
        return self.bits // 8

    @property
    def has_nid(self) -> bool:
        """Whether the record stores its target; otherwise the store has one target for all."""
        return self.nid.width > 0

    @property
    def n_age_buckets(self) -> int:
        """Age buckets a budget distinguishes, at most ``2**AGE_BUCKET_BITS``."""
        return 1 << min(AGE_BUCKET_BITS, self.time.width)

    @property
    def age_bucket_shift(self) -> int:
        """Right shift from an age in TIME units to its bucket."""
        return max(0, self.time.width - AGE_BUCKET_BITS)

    @property
    def n_keys(self) -> int:
        """Distinct hotness keys: FREQ from high to low, then age from young to old."""
        return (self.freq.max + 1) * self.n_age_buckets

    def time_of(self, now_jiffies: int) -> int:
        """Return TIME for a moment in jiffies, cut to the field's width."""
        return (now_jiffies >> self.jiffies_shift) & self.time.max

    def window_units(self, window_jiffies: int) -> int:
        """Return a window in TIME units; one longer than TIME can tell never passes."""
        return min(window_jiffies >> self.jiffies_shift, self.time.max)

    def wrap_jiffies(self) -> int:
        """Return after how many jiffies TIME wraps around."""
        return (self.time.max + 1) << self.jiffies_shift


def _format(
    name: str,
    bits: int,
    *,
    ready: tuple[int, int],
    freq: tuple[int, int],
    time: tuple[int, int],
    nid: tuple[int, int] = (0, 0),
    jiffies_shift: int = 0,
    importable_only: bool = False,
) -> RecordFormat:
    return RecordFormat(
        name, bits, Field(*ready), Field(*nid), Field(*freq), Field(*time), jiffies_shift, importable_only
    )


# fmt: off
FORMATS: dict[str, RecordFormat] = {
    fmt.name: fmt
    for fmt in (
        #       name          bits  field=(shift, width)
        _format("rfc",           32, ready=(0, 1), nid=(1, 10), freq=(11, 3), time=(14, 18)),
        _format("pghot",         32, nid=(0, 10), freq=(10, 3), time=(13, 14), ready=(31, 1)),
        _format("pghot-compact",  8, freq=(0, 2), time=(2, 5), ready=(7, 1), jiffies_shift=7),
        _format("rfc-page-ext",  64, ready=(2, 1), nid=(3, 10), freq=(13, 3), time=(16, 18),
                importable_only=True),
    )
}
# fmt: on

STORE_FORMATS = tuple(name for name, fmt in FORMATS.items() if not fmt.importable_only)
"""Formats a store can be made of."""


def record_format(name: str) -> RecordFormat:
    """Return the format called ``name``.

    Raises:
        InputError: there is no such format.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise InputError(f"unknown record format {name!r}; choose one of {', '.join(FORMATS)}") from None


def pack(
    fmt: RecordFormat, *, ready: ArrayLike, nid: ArrayLike = 0, freq: ArrayLike = 0, time: ArrayLike = 0
) -> NDArray[Any]:
    """Pack fields into records.

    Args:
        fmt: the layout.
        ready: 0 or 1.
        nid: target node; must be 0 where the format stores none.
        freq: access count.
        time: in the format's TIME units (see :meth:`RecordFormat.time_of`).

    Returns:
        Records of ``fmt.dtype``, of the arguments' broadcast shape.

    Raises:
        InputError: a value does not fit its field.
    """
    word: NDArray[Any] = np.zeros((), dtype=np.uint64)
    for label, field, value in (
        ("ready", fmt.ready, ready),
        ("nid", fmt.nid, nid),
        ("freq", fmt.freq, freq),
        ("time", fmt.time, time),
    ):
        array = np.asarray(value)
        if array.size and (array.min() < 0 or array.max() > field.max):
            raise InputError(
                f"{label} does not fit the {field.width} bits that format {fmt.name} has for it; "
                f"give {'0 only' if field.width == 0 else f'0 to {field.max}'}"
            )
        word = word | (array.astype(np.uint64) << np.uint64(field.shift))
    return word.astype(fmt.dtype)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Fields of records: ``ready`` bool, the others int64, all of the records' shape."""

    ready: NDArray[np.bool_]
    nid: NDArray[np.int64]
    freq: NDArray[np.int64]
    time: NDArray[np.int64]


def unpack(fmt: RecordFormat, records: ArrayLike) -> Unpacked:
    """Return the fields of ``records`` (any shape; read as ``fmt.dtype``)."""
    words = np.asarray(records).astype(np.uint64)

    def take(field: Field) -> NDArray[np.int64]:
        return ((words >> np.uint64(field.shift)) & np.uint64(field.max)).astype(np.int64)

    return Unpacked(take(fmt.ready).astype(np.bool_), take(fmt.nid), take(fmt.freq), take(fmt.time))


def age(fmt: RecordFormat, time: ArrayLike, now: int) -> NDArray[np.int64]:
    """Return ages in TIME units, modulo the field's width: a wrapped time looks young again."""
    return (now - np.asarray(time, dtype=np.int64)) & fmt.time.max


def hotness_key(fmt: RecordFormat, records: ArrayLike, now: int) -> NDArray[np.int64]:
    """Return rank keys of records, 0 the hottest, below ``fmt.n_keys``: FREQ falling, then age rising."""
    fields = unpack(fmt, records)
    bucket = age(fmt, fields.time, now) >> fmt.age_bucket_shift
    return (fmt.freq.max - fields.freq) * fmt.n_age_buckets + bucket


def import_page_ext(words: ArrayLike) -> NDArray[np.uint32]:
    """Return ``rfc`` records from raw 64-bit page_ext flag words."""
    shift = FORMATS["rfc-page-ext"].ready.shift
    return (np.asarray(words, dtype=np.uint64) >> np.uint64(shift)).astype(np.uint32)


def export_page_ext(records: ArrayLike, into: ArrayLike = 0) -> NDArray[np.uint64]:
    """Return ``into`` (raw page_ext words) with the migrator's 32 bits replaced by ``rfc`` records."""
    shift = np.uint64(FORMATS["rfc-page-ext"].ready.shift)
    kept = np.asarray(into, dtype=np.uint64) & ~(np.uint64(0xFFFF_FFFF) << shift)
    return kept | (np.asarray(records, dtype=np.uint32).astype(np.uint64) << shift)


def c_prelude(fmt: RecordFormat) -> str:
    """Return the C header text that gives CUDA kernels the layout: ``record_t`` and the GS_* constants."""
    lines = [
        f"/* Generated by gpuscan.records.formats.c_prelude for format {fmt.name}; do not edit. */",
        f"typedef {_C_TYPES[fmt.bits]} record_t;",
        f"#define GS_RECORD_BITS {fmt.bits}",
    ]
    for label, field in fmt.fields().items():
        lines += [
            f"#define GS_{label.upper()}_SHIFT {field.shift}",
            f"#define GS_{label.upper()}_WIDTH {field.width}",
            f"#define GS_{label.upper()}_MAX {field.max}u",
        ]
    lines += [
        f"#define GS_HAS_NID {int(fmt.has_nid)}",
        f"#define GS_JIFFIES_SHIFT {fmt.jiffies_shift}",
        f"#define GS_AGE_BUCKET_SHIFT {fmt.age_bucket_shift}",
        f"#define GS_N_AGE_BUCKETS {fmt.n_age_buckets}",
        f"#define GS_N_KEYS {fmt.n_keys}",
    ]
    return "\n".join(lines) + "\n"
