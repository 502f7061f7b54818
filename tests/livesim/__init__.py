"""A simulated kernel for the whole of ``gpuscan live``, decided by one seed: docs/simulation.md."""
