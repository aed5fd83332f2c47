"""Conformance suites: tests that every adapter of a port must pass."""
