"""The producers that come with gpuscan: each module is one, called as its file."""
