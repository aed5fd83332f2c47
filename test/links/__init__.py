"""Two nodes on two machines hand runs over to each other while their link is cut and they are killed.

`pair` joins the machines, `load` sends triggers, `faults` cuts the link and kills the nodes, and
`verdict` counts. ``python -m links`` runs all of it (`make links`).
"""
