"""The records of a machine's pages: requests go in, plans come out (docs/protocol.md)."""
