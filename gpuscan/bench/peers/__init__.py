"""Other ways to group READY pages by target, each written as its own users would write it.

None of them claims: they leave the records as they are, which is less work than ours. A peer gives
:class:`gpuscan.bench.peers.answer.Answer`, checked to be the one ours gives. What one declares is in
:mod:`gpuscan.bench.peers.contract`; :mod:`gpuscan.bench.peers.catalogue` finds them.
"""
