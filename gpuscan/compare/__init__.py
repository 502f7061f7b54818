"""``gpuscan compare``: one stream through every scan design, in two loops, and what each column means.

``recording`` draws the accesses once; ``request_list`` makes the open loop's list of them. In the
*closed loop* (``closed_loop``) every design has a machine and producers of its own, since a move
changes PFNs and later faults; in the *open loop* (``open_loop``) every design is given the
same list and nothing moves (``store_loop`` for what scans for real). ``cost_model`` (on ``cost_rounds`` and
``cost_fit``) and ``side_costs`` measure what this machine takes for the ``steps`` that designs declare;
``equal_cost`` asks what designs reach where they may cost the same. ``columns`` are the figures, ``suite``
runs it all, ``grid`` runs many of them, ``report`` and ``plots`` write it down. No design is named here: what
is to be known of one it declares (:mod:`gpuscan.designs.contract`).
"""
