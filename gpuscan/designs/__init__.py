"""Scan designs: what one declares, all there are, and the models of those of the kernel debate.

``contract`` says what a design declares, ``built_in`` has one file each, ``catalogue`` finds them and those
of other packages. ``model`` is what the models have in common: every candidate goes through the exact steps
of the thread, one after the other, in compiled code (``taking``). ``threads`` has the threads that walk,
``engine`` runs a model on a simulated machine. docs/designs.md says what each one takes from where.
"""
