"""FRACTAL Runtime Manager: runs flows for triggers, and loses no trigger that it acknowledged."""

__version__ = "1.0.0"
RELEASED_MS = 1_767_225_600_000  # 2026-01-01: a clock that shows an earlier time is wrong
