"""The machine sources of gpuscan, one file each."""
