"""The parts of ``gpu_accept.py``: what a GPU must show before its figures count."""
