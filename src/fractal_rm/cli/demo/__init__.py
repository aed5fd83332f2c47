"""The demo: a broker, two nodes, components and a balancer on this machine."""
