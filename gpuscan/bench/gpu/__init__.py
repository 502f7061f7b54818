"""A roofline model of the CUDA kernels: what each should take on a GPU, before anybody measured it."""
