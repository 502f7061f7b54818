"""How a history lies on the disk, for who writes it and who reads it."""

from __future__ import annotations

from pathlib import Path

HISTORY = Path("var/lib/gpuscan/history.sqlite")
"""Below the root."""
VERSION = 1
"""Its ``user_version``. A new kind of note is no new version: who reads passes over what it does not know."""
BEGINS = b"SQLite format 3\0"
"""A file of SQLite begins so (https://www.sqlite.org/fileformat.html, 1.3)."""
TABLE = """note (
    id INTEGER PRIMARY KEY,
    t_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    policy TEXT,
    body TEXT NOT NULL
)"""
INDEX = "note_t ON note (t_ns)"
