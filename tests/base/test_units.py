"""Sizes, times, rates and shares: what is accepted, what is said, and that nothing else is raised."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.base.units import (
    format_bytes,
    format_count,
    format_number,
    format_time,
    parse_bytes,
    parse_fine_time_ns,
    parse_rate_bytes_per_s,
    parse_share,
    parse_time_ns,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_bytes, "0B", 0),
        (parse_bytes, "4096B", 4096),
        (parse_bytes, "1KiB", 1024),
        (parse_bytes, " 64 GiB ", 68_719_476_736),
        (parse_bytes, "1.5TiB", 1_649_267_441_664),
        (parse_bytes, ".5MiB", 524_288),
        (parse_bytes, "2.GiB", 2_147_483_648),
        (parse_bytes, "100MB", 100_000_000),
        (parse_bytes, "1kB", 1000),
        (parse_bytes, "1KB", 1000),
        (parse_bytes, "7EiB", 8_070_450_532_247_928_832),
        (parse_time_ns, "1ns", 1),
        (parse_time_ns, "2.5us", 2_500),
        (parse_time_ns, "2.5µs", 2_500),
        (parse_time_ns, "100ms", 100_000_000),
        (parse_fine_time_ns, "2.9ns", 2.9),
        (parse_fine_time_ns, "3us", 3000.0),
        (parse_time_ns, "1min", 60_000_000_000),
        (parse_time_ns, "1h", 3_600_000_000_000),
        (parse_rate_bytes_per_s, "100MB/s", 100_000_000),
        (parse_rate_bytes_per_s, "1GiB/s", 1_073_741_824),
        (parse_share, "50%", 0.5),
        (parse_share, "0.25", 0.25),
        (parse_share, "0", 0.0),
        (parse_share, "100%", 1.0),
        (parse_share, "1", 1.0),
    ],
)
def test_accepted(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_bytes, "", "is not a size; write for example 64GiB"),
        (parse_bytes, "-1GiB", "is not a size"),
        (parse_bytes, "1e3B", "is not a size"),
        (parse_bytes, "٣GiB", "is not a size"),
        (parse_bytes, "64", "has no unit; a size takes one of B, KiB"),
        (parse_bytes, "64gib", "has the unknown unit 'gib'"),
        (parse_bytes, "8EiB", "does not fit 63 bits"),
        (parse_bytes, "9" * 5000 + "B", "has 5000 digits"),
        (parse_bytes, "9" * 400 + ".0B", "has 402 digits"),
        (parse_fine_time_ns, "5", "has no unit; a time takes one of ns, us"),
        (parse_time_ns, "5", "has no unit; a time takes one of ns, us"),
        (parse_time_ns, "5m", "unknown unit 'm'"),
        (parse_time_ns, "300000000000h", "does not fit"),
        (
            parse_rate_bytes_per_s,
            "100MB",
            "did you mean '100MB/s'?); a rate takes one of B/s",
        ),
        (parse_rate_bytes_per_s, "/s", "is not a rate"),
        (parse_share, "101%", "is not a share from 0% to 100%"),
        (parse_share, "1.01", "is not a share"),
        (parse_share, "5GiB", "is not a share"),
        (parse_share, "half", "is not a share"),
    ],
)
def test_refused_in_one_sentence(parse, text, said):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "text", "meant"),
    [
        (parse_bytes, "64G", "64GiB"),
        (parse_bytes, "64g", "64GiB"),
        (parse_bytes, "64gib", "64GiB"),
        (parse_bytes, " 64 GIB", "64GiB"),
        (parse_bytes, "64gb", "64GB"),
        (parse_bytes, "64 gigabytes", "64GB"),
        (parse_bytes, "1.5 tebibytes", "1.5TiB"),
        (parse_bytes, "1 Kilobyte", "1kB"),
        (parse_bytes, "512 bytes", "512B"),
        (parse_bytes, "100MB/s", "100MB"),
        (parse_time_ns, "100MS", "100ms"),
        (parse_time_ns, "5m", "5min"),
        (parse_time_ns, "2 hours", "2h"),
        (parse_time_ns, "3 sec", "3s"),
        (parse_time_ns, "10 milliseconds", "10ms"),
        (parse_time_ns, "3μs", "3us"),
        (parse_fine_time_ns, "2.9NS", "2.9ns"),
        (parse_rate_bytes_per_s, "100MB", "100MB/s"),
        (parse_rate_bytes_per_s, "100mb/s", "100MB/s"),
        (parse_rate_bytes_per_s, "100 M/sec", "100MiB/s"),
        (parse_share, "50", "50%"),
        (parse_share, "50 percent", "50%"),
    ],
)
def test_what_was_meant_is_said_and_is_taken(parse, text, meant):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert f"(did you mean '{meant}'?)" in str(caught.value)
    parse(meant)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_bytes, "64"), (parse_bytes, "64X"), (parse_time_ns, "5GiB"), (parse_share, "500")],
)
def test_nothing_is_guessed(parse, text):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "did you mean" not in str(caught.value)


@given(
    st.sampled_from([parse_bytes, parse_time_ns, parse_rate_bytes_per_s, parse_share]),
    st.text() | st.from_regex(r"[0-9.]{0,60} ?([KMG]i?B|ns|s|%)(/s)?", fullmatch=True),
)
def test_any_text_is_a_number_or_an_input_error(parse, text):
    with contextlib.suppress(InputError):
        assert 0 <= parse(text) < 1 << 63


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10_239, "10 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        ((64 << 30) - 98 * 4096, "64 GiB"),
        (1_649_267_441_664, "1.5 TiB"),
        (1 << 63, "8 EiB"),
        (1 << 73, "8192 EiB"),
        (-1536, "-1.5 KiB"),
        (0.25, "0.25 B"),
    ],
)
def test_sizes_are_shown_with_the_unit_that_fits(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.9, "1 k"),
        (2_684_354, "2.68 M"),
        (999_999, "1 M"),
        (12_300, "12.3 k"),
        (10**19, "10000 P"),
    ],
)
def test_counts(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (0.5, "0.5 ns"),
        (999, "999 ns"),
        (999.9, "1 us"),
        (1_250_000, "1.25 ms"),
        (999_600, "1 ms"),
        (999_999_999, "1 s"),
        (59 * 10**9, "59 s"),
        (1_234 * 10**9, "1234 s"),
        (-2_500, "-2.5 us"),
    ],
)
def test_durations(ns, text):
    assert format_time(ns) == text


@given(st.integers(0, (1 << 60) - 1))
def test_shown_sizes_are_within_half_a_percent(n_bytes):
    number, unit = format_bytes(n_bytes).split()
    assert parse_bytes(number + unit) == pytest.approx(n_bytes, rel=0.006)


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (1, "batch", "1 batch"),
        (0, "batch", "0 batches"),
        (1568, "batch", "1,568 batches"),
        (2, "plan", "2 plans"),
    ],
)
def test_numbers_with_what_is_counted(n: int, noun: str, text: str) -> None:
    assert format_number(n, noun) == text
