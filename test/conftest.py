"""Shared by all tests: brokers, servers and nodes are real, and are told to end when it is over."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["brokers", "components", "nodes", "originals"]


def pytest_sessionfinish() -> None:
    """Nodes of tests that failed do not outlive them."""
    from nodes import NodeProcess

    for process in NodeProcess.launched:
        if process.poll() is None:
            process.kill()
