"""The CUDA backend: kernels in CUDA C++, one operation a file, and the drivers that launch them.

Nothing outside this package imports CuPy, and :mod:`gpuscan.kernels.cuda.cupy_device`,
which does, is imported only when a GPU is opened.
"""

from gpuscan.kernels.cuda.backend import CudaBackend, CudaKernels

__all__ = ["CudaBackend", "CudaKernels"]
