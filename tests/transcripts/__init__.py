"""The posted kernel threads once more, page by page, in plain Python: what the designs are compared with.

Written from the text of the patches alone, and with nothing imported from ``gpuscan``: ``rfc_v1`` from "[RFC
PATCH v1 0/4] Kernel thread based async batch migration" (2025-06-16), ``pghot`` from "mm: Hot page tracking
and promotion infrastructure" (v7, 2026-05-04), ``numa_scan`` from kernel/sched/fair.c.
``world`` is the memory they walk, ``machines`` generates it.
"""
