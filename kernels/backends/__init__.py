"""The backends that come with gpuscan, declared: each module, or package, is one, called as its file."""
