"""What watches the memory of running processes: each module is one mechanism of the kernel."""
