"""Files that are hostile by chance: every reader gets 100,000 of them and must say one sentence or read.

``mutate`` makes one of a good one, ``targets`` has the readers, ``worker`` is the process that tries them and
may die, ``campaign`` starts workers and tells of the first input that did what none may. A failing input is
its target and seed: ``pytest`` prints the command that replays it.
"""
