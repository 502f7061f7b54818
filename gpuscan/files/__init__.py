"""Files that others made, read with care; files of ours, written whole or not at all."""
