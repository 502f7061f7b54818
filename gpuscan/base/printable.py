"""Text from files, made harmless where it is printed: a terminal obeys what it is sent.

Names, notes and paths come from files that others made. An escape sequence in one could retitle a
window, hide a line, or answer as if it were typed; marks for right-to-left text reorder what is read.
"""

from __future__ import annotations

import re

# C0 but for tab and newline, DEL, C1; marks and overrides of direction; halves of pairs of UTF-16.
_HARMFUL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """Return text in which characters that a terminal obeys are shown as escapes, ``\\x1b``."""
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], text)


def harmless_json(text: str) -> str:
    """Return JSON text that says the same, with such characters as JSON's own escapes."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
