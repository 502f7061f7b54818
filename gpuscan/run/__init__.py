"""A run from its description to its report, and its checkpoints."""
