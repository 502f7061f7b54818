"""Real programs that hold much memory: how each is filled, asked and verified; one file each."""
