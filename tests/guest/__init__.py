"""What runs in the guest machine: processes to move, what the kernel says of them, tests, and the peers."""
