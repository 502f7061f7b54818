"""Sizes, times, rates and shares as people write them: ``64TiB``, ``100ms``, ``100MB/s``, ``50%``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuscan.base.errors import InputError

PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
"""Base page. x86-64 and the usual arm64 configuration; everything counts in these."""

_BYTES = {
    "B": 1,
    **{f"{p}iB": 1 << (10 * (i + 1)) for i, p in enumerate("KMGTPE")},
    **{f"{p}B": 10 ** (3 * (i + 1)) for i, p in enumerate("KMGTPE")},
    "kB": 1000,
}
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DECIMAL = ("kilo", "mega", "giga", "tera", "peta", "exa")
_BINARY = ("kibi", "mebi", "gibi", "tebi", "pebi", "exbi")
_RATES = {f"{unit}/s": n_bytes for unit, n_bytes in _BYTES.items()}
_SPELT_BYTES = {
    "byte": "B",
    **{p.lower(): f"{p}iB" for p in "KMGTPE"},
    **{f"{word}byte": f"{p}B" for p, word in zip("KMGTPE", _DECIMAL, strict=True)},
    **{f"{word}byte": f"{p}iB" for p, word in zip("KMGTPE", _BINARY, strict=True)},
}
"""How else units are written, in small letters and the singular -> how they are written here."""
_SPELT_TIMES = {
    **dict.fromkeys(("nsec", "nanosec", "nanosecond"), "ns"),
    **dict.fromkeys(("μs", "usec", "microsec", "microsecond"), "us"),  # the Greek letter, not the sign
    **dict.fromkeys(("msec", "millisec", "millisecond"), "ms"),
    **dict.fromkeys(("sec", "second"), "s"),
    **dict.fromkeys(("m", "minute"), "min"),
    **dict.fromkeys(("hr", "hour"), "h"),
}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµμ%/]*)\s*")
_LIMIT = 1 << 63
_MAX_DIGITS = 40
"""Far beyond 63 bits, and far below where int() refuses and float() overflows."""


def _split(text: str, what: str, example: str) -> tuple[float | int, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not a {what}; write for example {example}")
    number, unit = match.groups()
    if len(number) > _MAX_DIGITS:
        raise InputError(f"{number[:12]}... has {len(number)} digits; give a smaller {what}")
    return (float(number) if "." in number else int(number)), unit


def _scaled(text: str, units: dict[str, int], what: str, example: str) -> int:
    number, unit = _split(text, what, example)
    if unit not in units:
        known = _meant_unit(unit, units)
        raise InputError(
            f"{text!r} has {'the unknown unit ' + repr(unit) if unit else 'no unit'}"
            f"{_did_you_mean(text, unit, known)}; "
            f"a {what} takes one of {', '.join(units)}, for example {example}"
        )
    value = round(number * units[unit])
    if value >= _LIMIT:
        raise InputError(f"{text!r} does not fit 63 bits; give a smaller {what}")
    return value


def _meant_unit(unit: str, units: Mapping[str, int]) -> str:
    """Return the unit that one spelt otherwise may mean, empty where that is not clear."""
    small = {known.lower(): known for known in units}
    word = re.sub("/s(ec|econd)?$", "", unit.lower())
    spellings = _SPELT_TIMES if "ns" in units else _SPELT_BYTES
    spelt = spellings.get(word) or spellings.get(word.removesuffix("s")) or word
    return next(
        (
            small[meant]
            for meant in (unit.lower(), word, spelt.lower(), f"{spelt.lower()}/s")
            if meant in small
        ),
        "",
    )


def _did_you_mean(text: str, unit: str, known: str) -> str:
    return f" (did you mean '{text.strip().removesuffix(unit).strip()}{known}'?)" if known else ""


def parse_bytes(text: str) -> int:
    """Return the bytes in a size such as ``64GiB`` (binary) or ``100MB`` (decimal)."""
    return _scaled(text, _BYTES, "size", "64GiB")


def parse_time_ns(text: str) -> int:
    """Return the nanoseconds in a time such as ``100ms``."""
    return _scaled(text, _NANOSECONDS, "time", "100ms")


def parse_fine_time_ns(text: str) -> float:
    """Return the nanoseconds in a time such as ``2.9ns``, not rounded."""
    number, unit = _split(text, "time", "2.9ns")
    _scaled(text, _NANOSECONDS, "time", "2.9ns")  # what is wrong with it is wrong here, too
    return float(number) * _NANOSECONDS[unit]


def parse_rate_bytes_per_s(text: str) -> int:
    """Return bytes per second of a rate such as ``100MB/s``."""
    return _scaled(text, _RATES, "rate", "100MB/s")


def parse_share(text: str) -> float:
    """Return the share in ``50%`` or ``0.5`` as a number from 0 to 1."""
    number, unit = _split(text, "share", "50%")
    share = number / 100 if unit == "%" else float(number)
    if unit not in ("", "%") or not 0.0 <= share <= 1.0:
        percent = "%" if unit.lower() in ("", "percent", "pct") and number <= 100 else ""
        raise InputError(
            f"{text!r} is not a share from 0% to 100%{_did_you_mean(text, unit, percent)}; "
            "write for example 50%"
        )
    return share


def format_bytes(n_bytes: float) -> str:
    """Return a size with a binary unit and three digits (four from 1000 on), ``1.5 TiB``."""
    return _formatted(n_bytes, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def format_count(count: float) -> str:
    """Return a count with a decimal suffix, ``2.68 M``."""
    return _formatted(count, 1000.0, ("", "k", "M", "G", "T", "P")).rstrip()


def format_number(n: int, noun: str) -> str:
    """Return a number with what is counted, ``1 batch`` or ``1,568 batches``; the noun in the singular."""
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def _formatted(value: float, step: float, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        whole = suffix == suffixes[0] and float(value).is_integer()
        digits = 0 if whole or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        number = f"{value:.{digits}f}"
        # Decided after rounding: 1,048,575 bytes are 1 MiB, not 1024 KiB.
        if abs(float(number)) < step:
            break
        value /= step
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {suffix}"


def format_figure(value: str | float) -> str:
    """Return a number with as many digits as are of use, or a text as it is."""
    if isinstance(value, str):
        return value
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def format_time(ns: float) -> str:
    """Return a duration with the largest unit that keeps it above one, ``1.25 ms``."""
    value = float(ns)
    for unit in ("ns", "us", "ms"):
        if abs(float(f"{value:.3g}")) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} s" if abs(value) < 999.5 else f"{value:.0f} s"
