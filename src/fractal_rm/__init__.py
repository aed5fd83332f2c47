"""FRACTAL Runtime Manager: triggers in, flows run, nothing acknowledged lost."""

__version__ = "1.0.0"
RELEASED_MS = 1_767_225_600_000  # 2026-01-01: a wall clock that shows an earlier time is wrong
