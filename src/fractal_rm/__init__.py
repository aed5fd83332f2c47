"""FRACTAL Runtime Manager: triggers in, flows run, nothing acknowledged lost."""

__version__ = "1.0.0"
