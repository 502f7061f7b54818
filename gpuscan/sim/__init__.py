"""A machine made of numbers: frames, page tables, processes and the kernel's rules for moving pages.

The pieces are imported from their modules: :mod:`gpuscan.sim.spec` is light, the
machine itself (:mod:`gpuscan.sim.machine`, :mod:`gpuscan.sim.captured`) needs Numba.
"""
