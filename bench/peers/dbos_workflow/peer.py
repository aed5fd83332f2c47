"""DBOS, a library for durable execution. It uses SQLite, because SQLite suits a small node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.installed import FOLDER, install_once, pip_install, version_in
from bench.processes import running

HERE = Path(__file__).parent
INSTALLED = FOLDER / "dbos_workflow"
LOCK = HERE / "requirements.lock"


class DbosWorkflow:
    durable_data = "trigger, each step, outcome"
    max_triggers = 200  # they take 15 s
    is_slow = True

    @property
    def name(self) -> str:
        return f"DBOS {version_in(INSTALLED, 'dbos')}, SQLite"

    def missing_reason(self) -> str | None:
        return None

    def install(self) -> None:
        install_once(INSTALLED, LOCK, lambda folder: pip_install(folder, LOCK))

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        workflow = (
            INSTALLED / "bin" / "python", HERE / "workflow.py", str(nginx_port), str(broker_port),
            topic, folder / "dbos.sqlite",
        )  # fmt: skip
        with running(*workflow, log=folder / "dbos.log") as process:
            process.wait_for_log("subscribed")
            yield [process.pid]
