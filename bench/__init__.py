"""Measures the speed and the cost of the Runtime Manager, beside its peers on the same machine."""
