"""Standard streams that take any text: what their encoding lacks is written in plain characters.

``PYTHONIOENCODING=latin-1``, the C locale, or a file name that is no text would else end a command in the
middle of its report, with a UnicodeEncodeError.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HANDLER = "gpuscan.plain"
_PLAIN = str.maketrans("▁▂▃▄▅▆▇█━─…µ×–·░▒▓┬", ".:-=+*#@=-~ux-.:=#+")
"""One for one, so that columns stay where they are: bars, lines of progress, and what rich cuts with."""


@contextmanager
def plain_streams() -> Iterator[None]:
    """Have standard output and error take what their encodings lack; as they were afterwards."""
    codecs.register_error(_HANDLER, _in_plain_characters)
    before = []
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a StringIO has no encoding, and takes anything
        if reconfigure is not None:
            before.append((reconfigure, stream.errors))
            reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        for reconfigure, errors in before:
            with suppress(OSError):  # it flushes first, and whoever read the stream may be gone
                reconfigure(errors=errors)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_only(error.object[error.start : error.end].translate(_PLAIN)), error.end


def ascii_only(text: str) -> str:
    r"""Return ``text`` with every other character as JSON escapes it, ``\u00e4``."""
    return re.sub(r"[^\x00-\x7f]", _escaped, text)


def can_take(text: str) -> bool:
    """Whether the encoding of standard output has all characters of ``text``."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
