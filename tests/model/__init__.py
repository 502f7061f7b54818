"""An exhaustive model check of the claim protocol: every interleaving of a few small threads.

``checker`` runs any small concurrent program; ``protocol`` is ours, each way it
can be broken on purpose, and what must hold. The findings are in docs/protocol.md.
"""
