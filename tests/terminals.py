"""Commands on a terminal of some width, and what stood on its lines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios


def on_terminal(args: list[str], columns: int, **environment: str) -> tuple[int, list[str]]:
    """Run ``python args`` on a terminal.

    Returns:
        The exit code, and every text that a line of the terminal had, colours taken out, in order.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    known = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    process = subprocess.Popen(
        [sys.executable, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**known, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 1 << 16):
            written += part
    except OSError:  # EIO: nobody has it open any more
        pass
    os.close(ours)
    code = process.wait(60)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode("utf-8"))
    return code, [line for line in re.split(r"[\r\n]+", text) if line]
