"""Nodes hand runs over to each other while their link is cut, they are killed, and restarted.

`pair` joins two machines, `load` sends triggers, `faults` cuts the link and kills the nodes,
`passes` does all of this, `restarts` restarts three nodes in turn, and `verdict` counts. `make
links` runs it.
"""
