"""The kinds of files that come with gpuscan, one module each."""
