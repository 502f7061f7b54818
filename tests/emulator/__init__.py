"""Runs CUDA kernels without a GPU: a header for g++, and a loader with CuPy's calling convention."""
