"""A roofline model of the CUDA kernels: what each is expected to take on a GPU, before one has measured it."""
