"""The CPU backend: Numba kernels, one module per operation, and the drivers that run them."""

from gpuscan.kernels.cpu.backend import CpuBackend, CpuKernels

__all__ = ["CpuBackend", "CpuKernels"]
