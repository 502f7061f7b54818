"""The record: bit positions written out by hand, packing, ages, page_ext words, the C prelude."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gpuscan
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.records.formats import (
    FORMATS,
    STORE_BITS,
    STORE_FORMATS,
    Field,
    RecordFormat,
    age,
    c_prelude,
    export_page_ext,
    hotness_key,
    import_page_ext,
    pack,
    record_format,
    unpack,
)

# Masks of the fields in place, from the kernel series, not from the code: RFC v1 3/4 (page_ext.h,
# with PAGE_EXT_MIGRATE_READY = 2 on 64-bit), and the bit layouts of the pghot series.
MASKS = {
    #                 ready                 nid                   freq                  time
    "rfc": (0x0000_0001, 0x0000_07FE, 0x0000_3800, 0xFFFF_C000),
    "pghot": (0x8000_0000, 0x0000_03FF, 0x0000_1C00, 0x07FF_E000),
    "pghot-compact": (0x80, 0x00, 0x03, 0x7C),
    "rfc-page-ext": (0x4, 0x1FF8, 0xE000, 0x3_FFFF_0000),
}
# (ready, nid, freq, time) and the word they make.
WORDS = {
    "rfc": [
        ((1, 0, 0, 0), 0x0000_0001),
        ((0, 1, 0, 0), 0x0000_0002),
        ((0, 1023, 0, 0), 0x0000_07FE),
        ((0, 0, 1, 0), 0x0000_0800),
        ((0, 0, 0, 1), 0x0000_4000),
        ((0, 0, 0, 262143), 0xFFFF_C000),
        ((1, 9, 5, 0x2AAAA), 0xAAAA_A813),
        ((1, 1023, 7, 262143), 0xFFFF_FFFF),
    ],
    "pghot": [
        ((1, 0, 0, 0), 0x8000_0000),
        ((0, 1, 0, 0), 0x0000_0001),
        ((0, 0, 1, 0), 0x0000_0400),
        ((0, 0, 0, 1), 0x0000_2000),
        ((1, 9, 5, 0x2AAA), 0x8555_5409),
        ((1, 1023, 7, 16383), 0x87FF_FFFF),
    ],
    "pghot-compact": [
        ((1, 0, 0, 0), 0x80),
        ((0, 0, 1, 0), 0x01),
        ((0, 0, 0, 1), 0x04),
        ((1, 0, 2, 21), 0xD6),
        ((1, 0, 3, 31), 0xFF),
    ],
    "rfc-page-ext": [
        ((1, 0, 0, 0), 0x4),
        ((0, 1, 0, 0), 0x8),
        ((0, 0, 1, 0), 0x2000),
        ((0, 0, 0, 1), 0x1_0000),
        ((1, 9, 5, 0x2AAAA), 0x2_AAAA_A04C),
        ((1, 1023, 7, 262143), 0x3_FFFF_FFFC),
    ],
}
DTYPES = {"rfc": "uint32", "pghot": "uint32", "pghot-compact": "uint8", "rfc-page-ext": "uint64"}
FIELDS = ("ready", "nid", "freq", "time")

every_format = pytest.mark.parametrize("name", MASKS)


def test_there_are_these_formats_and_no_other():
    assert [*FORMATS] == ["rfc", "pghot", "pghot-compact", "rfc-page-ext"]
    assert STORE_FORMATS == ("rfc", "pghot", "pghot-compact")
    assert all(FORMATS[name].dtype == np.dtype(dtype) for name, dtype in DTYPES.items())


@every_format
def test_fields_are_where_the_kernel_has_them(name):
    fmt = FORMATS[name]
    assert tuple(getattr(fmt, label).mask for label in FIELDS) == MASKS[name]
    union = 0
    for mask in MASKS[name]:
        assert union & mask == 0
        union |= mask


@every_format
def test_words_by_hand(name):
    fmt = FORMATS[name]
    for (ready, nid, freq, time), word in WORDS[name]:
        packed = pack(fmt, ready=ready, nid=nid, freq=freq, time=time)
        assert (int(packed), packed.dtype) == (word, np.dtype(DTYPES[name]))
        fields = unpack(fmt, word)
        assert (bool(fields.ready), int(fields.nid), int(fields.freq), int(fields.time)) == (
            bool(ready),
            nid,
            freq,
            time,
        )


@every_format
@settings(max_examples=30)
@given(data=st.data())
def test_pack_and_unpack_are_inverse(name, data):
    fmt = FORMATS[name]
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=5))
    given_fields = {
        label: data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, getattr(fmt, label).max)))
        for label in FIELDS
    }
    words = pack(fmt, **given_fields)
    assert words.shape == shape
    fields = unpack(fmt, words)
    for label in FIELDS:
        np.testing.assert_array_equal(getattr(fields, label), given_fields[label])


@every_format
@settings(max_examples=50)
@given(data=st.data())
def test_unpack_of_any_word_packs_to_its_field_bits(name, data):
    fmt = FORMATS[name]
    word = data.draw(st.integers(0, (1 << fmt.bits) - 1))
    fields = unpack(fmt, np.uint64(word))
    packed = pack(fmt, ready=fields.ready, nid=fields.nid, freq=fields.freq, time=fields.time)
    assert int(packed) == word & sum(MASKS[name])


@every_format
@pytest.mark.parametrize("label", FIELDS)
def test_values_that_do_not_fit_are_refused(name, label):
    fmt = FORMATS[name]
    for value in (-1, getattr(fmt, label).max + 1):
        given: dict[str, Any] = {"ready": 0, label: [0, value]}
        with pytest.raises(InputError, match=f"{label} does not fit the .* bits that format {name} has"):
            pack(fmt, **given)


def test_pack_broadcasts_and_takes_nothing():
    fmt = FORMATS["rfc"]
    assert pack(fmt, ready=1, nid=[1, 2]).tolist() == [0x3, 0x5]
    assert pack(fmt, ready=[], nid=3).shape == (0,)


def test_time_wraps_with_its_width():
    rfc, pghot, compact = (FORMATS[name] for name in STORE_FORMATS)
    # 262 s, 16.4 s and 4.1 s at 1000 Hz.
    assert [fmt.wrap_jiffies() for fmt in (rfc, pghot, compact)] == [262_144, 16_384, 4_096]
    assert rfc.time_of(262_144 + 5) == 5
    assert pghot.time_of(3 * 16_384 - 1) == 16_383
    # 128 jiffies make a bucket.
    assert [compact.time_of(jiffies) for jiffies in (127, 128, 4095, 4096 + 128)] == [0, 1, 31, 1]


@pytest.mark.parametrize(
    ("name", "time", "now", "expected"),
    [
        ("rfc", 10, 15, 5),
        ("rfc", 262_140, 3, 7),
        ("rfc", 5, 4, 262_143),
        ("pghot", 16_383, 0, 1),
        ("pghot-compact", 30, 2, 4),
    ],
)
def test_ages_are_modulo_the_width(name, time, now, expected):
    assert age(FORMATS[name], time, now) == expected


@given(st.sampled_from(STORE_FORMATS), st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_age_of_a_stored_moment_is_what_passed_until_it_wraps(name, then_jiffies, passed_units):
    fmt = FORMATS[name]
    stored = fmt.time_of(then_jiffies)
    now = fmt.time_of(then_jiffies + (passed_units << fmt.jiffies_shift))
    assert age(fmt, stored, now) == passed_units % (fmt.wrap_jiffies() >> fmt.jiffies_shift)


def test_windows_longer_than_time_can_tell_never_pass():
    assert FORMATS["rfc"].window_units(5_000) == 5_000
    assert FORMATS["pghot"].window_units(20_000) == 16_383
    assert FORMATS["pghot-compact"].window_units(1_000) == 7
    assert FORMATS["pghot-compact"].window_units(5_000) == 31


def test_hotness_ranks_freq_first_then_youth():
    fmt = FORMATS["rfc"]
    assert (fmt.n_age_buckets, fmt.n_keys) == (64, 512)
    now = 262_143
    # 18 bits of age in 64 buckets of 4096.
    keys = {
        (7, 0): 0,
        (7, 4095): 0,
        (7, 4096): 1,
        (7, 262_143): 63,
        (6, 0): 64,
        (0, 262_143): 511,
    }
    for (freq, old), key in keys.items():
        assert hotness_key(fmt, pack(fmt, ready=1, nid=3, freq=freq, time=now - old), now) == key
    assert (FORMATS["pghot-compact"].n_age_buckets, FORMATS["pghot-compact"].n_keys) == (32, 128)


@given(st.sampled_from(STORE_FORMATS), st.data())
def test_hotness_key_orders_as_freq_and_age_do(name, data):
    fmt = FORMATS[name]
    word = st.integers(0, (1 << fmt.bits) - 1)
    left, right = (np.uint64(data.draw(word)) for _ in range(2))
    now = data.draw(st.integers(0, fmt.time.max))
    a, b = unpack(fmt, left), unpack(fmt, right)
    keys = hotness_key(fmt, left, now), hotness_key(fmt, right, now)
    assert all(0 <= key < fmt.n_keys for key in keys)
    if a.freq > b.freq:
        assert keys[0] < keys[1]
    elif a.freq == b.freq and age(fmt, a.time, now) <= age(fmt, b.time, now):
        assert keys[0] <= keys[1]


def test_page_ext_words_by_hand():
    # page_owner's two bits and what lies above TIME are not ours.
    raw = np.array([0x4 | 0x3, 0xFFFF_FFFC_0000_0003, 0x2_AAAA_A04C], dtype=np.uint64)
    records = import_page_ext(raw)
    assert records.dtype == np.uint32
    assert records.tolist() == [0x1, 0x0, 0xAAAA_A813]
    assert export_page_ext([0xAAAA_A813]).tolist() == [0x2_AAAA_A04C]


@given(hnp.arrays(np.uint64, 5), hnp.arrays(np.uint32, 5))
def test_export_replaces_the_records_and_nothing_else(raw, records):
    exported = export_page_ext(records, into=raw)
    np.testing.assert_array_equal(import_page_ext(exported), records)
    ours = np.uint64(0x3_FFFF_FFFC)
    np.testing.assert_array_equal(exported & ~ours, raw & ~ours)


@given(hnp.arrays(np.uint32, 5))
def test_page_ext_reads_as_its_own_format(records):
    words = export_page_ext(records)
    left, right = unpack(FORMATS["rfc"], records), unpack(FORMATS["rfc-page-ext"], words)
    for label in FIELDS:
        np.testing.assert_array_equal(getattr(left, label), getattr(right, label))


def test_unknown_format_is_one_sentence():
    assert record_format("pghot") is FORMATS["pghot"]
    with pytest.raises(InputError, match=r"^unknown record format 'rfc2'; choose one of rfc, pghot,"):
        record_format("rfc2")


@every_format
def test_prelude_defines_every_constant_once(name):
    text = c_prelude(FORMATS[name])
    defined = re.findall(r"^#define (\w+) (\S+)$", text, re.MULTILINE)
    names = [constant for constant, _ in defined]
    assert len(set(names)) == len(names)
    constants = {constant: int(value.rstrip("u")) for constant, value in defined}
    for label, mask in zip(FIELDS, MASKS[name], strict=True):
        upper = label.upper()
        assert constants[f"GS_{upper}_MAX"] << constants[f"GS_{upper}_SHIFT"] == mask
        assert constants[f"GS_{upper}_WIDTH"] == mask.bit_count()
    assert constants["GS_HAS_NID"] == (name != "pghot-compact")


@every_format
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_prelude_compiles_and_places_the_bits(name, tmp_path):
    """The compiler checks the words written out above; nothing has to run."""
    checks = [
        f'_Static_assert(sizeof(record_t) == {np.dtype(DTYPES[name]).itemsize}, "size");',
        *(
            f'_Static_assert(WORD({ready}, {nid}, {freq}, {time}) == {word:#x}ull, "{word:#x}");'
            for (ready, nid, freq, time), word in WORDS[name]
        ),
    ]
    source = tmp_path / "check.c"
    source.write_text(
        c_prelude(FORMATS[name])
        + "#define WORD(r, n, f, t) ((record_t)(((unsigned long long)(r) << GS_READY_SHIFT) |"
        + " ((unsigned long long)(n) << GS_NID_SHIFT) | ((unsigned long long)(f) << GS_FREQ_SHIFT) |"
        + " ((unsigned long long)(t) << GS_TIME_SHIFT)))\n"
        + "\n".join(checks)
        + "\n"
    )
    done = subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def declared(bits: int, *, importable_only: bool = False, **fields: Any) -> RecordFormat:
    """Declare a format of 8 bits' worth of fields, with some of them elsewhere."""
    places = {"ready": (7, 1), "nid": (0, 0), "freq": (0, 2), "time": (2, 5)} | fields
    declared_fields: Any = {name: Field(*place) for name, place in places.items()}
    return RecordFormat("new", bits, **declared_fields, importable_only=importable_only)


@pytest.mark.parametrize("bits", [-8, 0, 1, 12, 16, 24, 33, 48, 64, 128, "32", None])
def test_a_width_that_no_kernel_knows_is_refused_where_it_is_declared(bits: int) -> None:
    with pytest.raises(ArgumentError, match=r"record format new: no kernel .*; give 8 or 32$"):
        declared(bits)


@pytest.mark.parametrize("bits", STORE_BITS)
def test_a_format_of_every_width_for_stores_has_its_c_type(bits: int) -> None:
    assert f"#define GS_RECORD_BITS {bits}\n" in c_prelude(declared(bits))
    assert {fmt.bits for fmt in FORMATS.values() if not fmt.importable_only} <= set(STORE_BITS)


def test_words_of_64_bits_are_imported_only() -> None:
    assert declared(64, importable_only=True).n_bytes == 8
    with pytest.raises(ArgumentError, match=r"records of 16 bits; give 8 or 32 or 64$"):
        declared(16, importable_only=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"time": (2, 6)}, "time overlaps another field"),
        ({"nid": (0, 1)}, "freq overlaps another field"),
        ({"time": (2, 7)}, "time is outside its 8 bits"),
        ({"freq": (-1, 1)}, "freq is outside its 8 bits"),
        ({"ready": (7, 2)}, "ready has 2 bits"),
        ({"ready": (7, 0)}, "ready has 0 bits"),
    ],
)
def test_fields_that_a_word_does_not_hold_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"record format new: {said}"):
        declared(8, **fields)


def test_words_that_timed_loops_write_out_are_those_of_the_table() -> None:
    (path,) = (
        path
        for path in (Path(gpuscan.__file__).parent / "compare").rglob("*.py")
        if "\nRECORD_READY = " in path.read_text()
    )
    name = ".".join(path.relative_to(Path(gpuscan.__file__).parents[1]).with_suffix("").parts)
    loops = import_module(name)
    rfc, compact = FORMATS["rfc-page-ext"], FORMATS["pghot-compact"]
    assert (rfc.ready.mask, rfc.nid.shift, rfc.nid.max) == (loops.READY, loops.NID_SHIFT, loops.NID_MASK)
    assert compact.ready.mask == loops.RECORD_READY
