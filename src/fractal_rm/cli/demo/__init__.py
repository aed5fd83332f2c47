"""The demo: runs a broker, two nodes, components and a balancer on this machine."""
