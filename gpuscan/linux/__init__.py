"""What gpuscan asks of the running kernel: processes, their pages, DAMON, move_pages(2); Linux only."""
