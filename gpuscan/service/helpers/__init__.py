"""Helpers of the kernel, which move pages by themselves: the service sets them up for rules, and watches."""
