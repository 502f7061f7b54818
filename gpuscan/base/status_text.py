"""What /proc/PID/status says (proc_pid_status(5))."""

from __future__ import annotations


def effective_capabilities(text: str) -> int:
    """Return the capabilities in effect, a bit each (include/uapi/linux/capability.h); 0 if none are told."""
    word = next((line.split()[1] for line in text.splitlines() if line.startswith("CapEff:")), "0")
    return int(word, 16)
