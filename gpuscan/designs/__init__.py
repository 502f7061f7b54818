"""The scan designs of the kernel debate, each a module that reads like the algorithm it models.

``rfc``: kmigrated as posted in "[RFC PATCH v1 0/4] Kernel thread based async batch
migration" (linux-mm, 2025-06-16), and the same without its slips. They are models: every
candidate goes through the exact steps of the thread, one after the other, in Python.
docs/designs.md says what each one takes from where.
"""
