"""What turns the accesses of a simulated machine into marks: each module is one producer."""
