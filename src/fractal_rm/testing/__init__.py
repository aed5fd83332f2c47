"""Conformance suites of the ports: what every adapter of a port must do."""
