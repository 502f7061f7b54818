"""Changes to bytes, and to JSON and TOML as what they mean."""

from __future__ import annotations

import json
import marshal
import random
from typing import Any

NUMBERS: list[int | float] = [
    0,
    1,
    -1,
    2,
    7,
    255,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
]
NUMBERS += [
    -(1 << 31),
    -(1 << 63),
    1 << 64,
    1 << 127,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-308,
    float("inf"),
    float("nan"),
]
TEXTS = [
    "",
    "0",
    "a" * 5000,
    "\x1b[31m",
    "\0",
    "\ud800",
    "../../etc",
    "/dev/zero",
    "|O",
    "<u4,",
    "1GiB",
    "[/b]",
    "é\u202e",
]
_BYTES = [0, 1, 0x7F, 0x80, 0xFF, ord("{"), ord("["), ord('"'), ord("\n"), ord("-"), ord("9")]


def in_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four places changed, inserted, removed, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(8)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at % len(changed)] = rng.choice(_BYTES)
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 40)))
        elif kind == 3:
            del changed[at : at + rng.choice((1, 2, 4, 8, 100))]
        elif kind == 4:
            changed[at:at] = changed[at : at + rng.choice((1, 4, 16, 64))]
        elif kind == 5:
            del changed[at:]
        elif kind == 6:
            size = rng.choice((2, 4, 8))
            value = rng.choice(
                (0, 1, -1, 1 << 7, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 40, len(data), len(data) - 1)
            )
            changed[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
        else:
            other = rng.randrange(len(changed) + 1)
            changed[at : at + 8] = changed[other : other + 8]
    return bytes(changed)


def value(rng: random.Random) -> Any:
    """Return any JSON value, mostly an odd one."""
    kind = rng.randrange(12)
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    deep: Any = rng.choice(NUMBERS)
    for _ in range(rng.choice((5, 30, 300))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return rng.choice([None, True, False, [], {}, [[]], [0] * 2000, {"a": 1}, deep])


def in_document(rng: random.Random, document: Any) -> Any:
    """Return a copy of a document with one to three values changed, removed, doubled or moved."""
    changed = _copy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, key = _place(rng, changed)
        if at is None:
            return value(rng)
        kind = rng.randrange(8)
        old = at[key]
        if kind < 3:
            at[key] = value(rng)
        elif kind == 3:
            del at[key]
        elif kind == 4 and isinstance(at, list):
            at[key:key] = [_copy(old)] * rng.choice((1, 2, 50))
        elif kind == 4:
            at[rng.choice((f"{key}2", "extra", "__class__"))] = _copy(old)
        elif type(old) is int:
            at[key] = rng.choice(
                (
                    old + 1,
                    old - 1,
                    -old,
                    old * 2,
                    old << 20,
                    old / 2 if abs(old) < 1 << 1000 else 0.5,
                    f"{old:x}",
                )
            )
        elif type(old) is str:
            at[key] = rng.choice((old + "0", old[:-1], old.upper(), [old], old * 3))
        else:
            other, its_key = _place(rng, changed)
            if other is not None:
                at[key] = _copy(other[its_key])
    return changed


def _copy(document: Any) -> Any:
    return marshal.loads(marshal.dumps(document))  # ten times as fast as deepcopy()


def _place(rng: random.Random, document: Any) -> tuple[Any, Any]:
    """Return a table or list somewhere in a document and a key of it; (None, None) where there is none."""
    at: Any = document
    found: tuple[Any, Any] = (None, None)
    while isinstance(at, (dict, list)) and at:
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        found = at, key
        at = at[key]
        if rng.random() < 0.15:
            break
    return found


def json_text(rng: random.Random, document: Any) -> bytes:
    """Return JSON of a document; now and then what is no JSON, or says a key twice."""
    text = json.dumps(document)
    odd = rng.randrange(40)
    if odd == 0 and text.startswith("{"):
        text = '{"attributes": {}, "schema": 1, ' + text[1:]
    elif odd == 1:
        text = rng.choice(("[", '{"a":', "[[],")) * rng.choice((10, 1000, 100_000))
    elif odd == 2:
        text = "\ufeff" + text
    return text.encode("utf-8", "surrogatepass")


def toml_value(rng: random.Random, plain: Any) -> str:
    """Return a value as TOML has it, as far as it has it."""
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, str):
        return json.dumps(plain) if rng.random() < 0.95 else f"'{plain}'"
    if isinstance(plain, list):
        return f"[{', '.join(toml_value(rng, item) for item in plain[:50])}]"
    if isinstance(plain, dict):
        pairs = (f"{json.dumps(key)} = {toml_value(rng, item)}" for key, item in plain.items())
        return f"{{ {', '.join(pairs)} }}"
    return "''" if plain is None else repr(plain)


def in_toml(rng: random.Random, text: str) -> bytes:
    """Return TOML text with lines removed, doubled or moved, values replaced, or bytes changed."""
    if rng.random() < 0.35:
        return in_bytes(rng, text.encode())
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        name, equals, _ = lines[at].partition("=")
        kind = rng.randrange(7)
        if kind < 4 and equals:
            lines[at] = f"{name}= {toml_value(rng, value(rng))}"
        elif kind == 4:
            del lines[at : at + rng.choice((1, 1, 4))]
        elif kind == 5:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        else:
            deep = ".".join(["a"] * rng.choice((2, 30, 2000)))
            lines.insert(
                at, rng.choice((f"{deep} = 1", f"[{deep}]", "x = " + "[" * 500, "x = " + "9" * 5000))
            )
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
