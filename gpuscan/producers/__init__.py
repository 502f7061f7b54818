"""What turns the accesses of a simulated machine into marks."""
