"""Settings and fixtures for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# An example of Hypothesis must not fail because it is slow, which depends on the machine.
settings.register_profile("no-times", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-times")

pytest_plugins = ["brokers", "browsers", "components", "nodes", "originals", "page_stage"]


def pytest_sessionfinish() -> None:
    """Kill the nodes that are still running because their tests have failed."""
    from nodes import NodeProcess

    for process in NodeProcess.launched:
        if process.poll() is None:
            process.kill()
