"""A minimal Python program for flow 1. It stores nothing, checks nothing and has no limits.

It shows the lowest CPU time that a program with the design of the Runtime Manager can reach.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import running

HERE = Path(__file__).parent


class BareLoop:
    durable_data = "nothing"
    max_triggers = sys.maxsize
    is_slow = False

    @property
    def name(self) -> str:
        return "bare loop"

    def missing_reason(self) -> str | None:
        return None  # it needs only packages that the Runtime Manager needs, too

    def install(self) -> None:
        pass

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        loop = (sys.executable, HERE / "loop.py", str(nginx_port), str(broker_port), topic)
        with running(*loop, log=folder / "loop.log") as process:
            process.wait_for_log("subscribed")
            yield [process.pid]
