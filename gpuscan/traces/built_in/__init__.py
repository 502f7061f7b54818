"""The trace formats that come with gpuscan: each module is one, called as its file."""
