"""The benchmark: our scan, the machine's own ceilings and peers, side by side on the same records.

``bed`` builds a store and fills it, ``floors`` measures what the memory can do,
``peers`` holds other ways to the same answer, ``timing`` runs all of them in turn;
``scan``, ``request`` and ``tick`` put these together, ``sweep`` runs many of them,
``report`` and ``plots`` write down what came out.
"""
