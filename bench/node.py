"""A node to measure: the shipped configuration, with the ports of the stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import journal
from bench.processes import HOST, free_port
from bench.stage import Stage, is_listening, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.disks import Disk

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "runtime_manager" / "config_files"
LAUNCHERS = ROOT / "runtime_manager"
# Nodes use a separate virtual environment, because that of the benchmark has more packages.
PYTHON = str(ROOT / ".node-venv" / "bin" / "python")
TOPIC = "component_msg"
START_LIMIT_S = 120


class Node:
    """A node in a separate folder. ``mode`` is the command that starts it: up, mqtt or api.

    The keys in ``comm`` are added to comm.conf. If ``source`` is set, the node uses the modules in
    this folder instead of the installed ones.
    """

    def __init__(self, stage: Stage, name: str, *, mode: str = "up", nginx_port: int | None = None,
                 balancer_port: int | None = None, disk: Disk | None = None,
                 topic: str = TOPIC, source: Path | None = None,
                 **comm: object) -> None:  # fmt: skip
        self.disk = disk
        self.topic = topic
        self.folder = (disk.folder if disk else stage.folder) / name
        self.config = self.folder / "config_files"
        self.log = self.folder / "node.log"
        self.mode = mode
        self.rest_port = free_port()
        self._environment = {"PYTHONPATH": str(source)} if source else {}
        self._stage = stage
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(SHIPPED, self.config)
        nginx_port = nginx_port or stage.nginx_port
        balancer_port = balancer_port or nginx_port
        self.edit_config("comm", lambda file: file.update(
            mqtt={**file["mqtt"], "port": stage.broker_port, "client_id": f"bench-{name}",
                  "topic": topic},
            rest={**file["rest"], "port": self.rest_port}, **comm,
        ))  # fmt: skip
        self.edit_config("components", lambda file: [
            each["config"].update(port=nginx_port) for each in file.values()])  # fmt: skip
        self.edit_config("load_balancer", lambda file: file.update(port=balancer_port))
        self.edit_config("nodes", lambda file: file.clear())

    def edit_config(self, name: str, change: Callable[[dict], object]) -> None:
        """Change a JSON file of the configuration: ``change`` modifies its content in place."""
        path = self.config / f"{name}.conf"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def add_peer(self, other: Node) -> None:
        """Add another node to nodes.conf, with the id 2."""
        address = {"protocol": "http", "ip": HOST, "port": other.rest_port, "endpoint": "startrm"}
        self.edit_config("nodes", lambda file: file.update({"2": {"id": 2, "config": address}}))

    def set_durable(self, mode: str) -> None:
        """Add the line "DURABLE <mode>" to flow 1."""
        path = self.config / "flows.conf"
        path.write_text(path.read_text().replace("1\n", f"1\nDURABLE {mode}\n", 1))

    # --- the process --------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        return self._process.pid

    @property
    def journal(self) -> Path:
        """The node's journal file."""
        return self.folder / "state" / f"{self.mode}.journal"

    @contextmanager
    def serving(self) -> Iterator[Node]:
        """Start the node and wait until it is ready. Stop the node after the block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _command(self) -> list[str]:
        """The command that starts the node: a shipped launcher, if the mode has one."""
        launcher = LAUNCHERS / f"rm_{self.mode}.py"
        if not launcher.exists():
            return [PYTHON, "-m", "fractal_rm.cli.main", self.mode, "--config", str(self.config)]
        return [PYTHON, shutil.copy(launcher, self.folder)]

    def start(self) -> float:
        """Start the node, and wait until it is ready, connected to the broker, and listening.

        Returns the seconds until it was ready.
        """
        self.log.write_bytes(b"")
        start_s = time.perf_counter()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command(),
                stdout=out, stderr=out, env={**os.environ, **self._environment},
            )  # fmt: skip
        self._stage.kill_at_end(self._process)
        wait_until(lambda: b" ready " in self.log.read_bytes() or self._ended(), START_LIMIT_S)
        ready_after_s = time.perf_counter() - start_s
        if self.mode != "api":
            wait_until(lambda: b"mqtt_connected" in self.log.read_bytes() or self._ended())
        if self.mode != "mqtt":
            wait_until(lambda: is_listening(self.rest_port) or self._ended())
        return ready_after_s

    def _ended(self) -> bool:
        if self._process.poll() is not None:
            sys.exit(f"the node ended unexpectedly. Its log:\n{self.log.read_text()}")
        return False

    def stop(self, *, kill: bool = False) -> None:
        """Stop the node with SIGTERM, or with SIGKILL if ``kill`` is set."""
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(120)

    # --- the journal ----------------------------------------------------------------------

    def count(self, name: str) -> int:
        """How many runs the history has counted. ``name`` is "accepted" or "settled"."""
        return self.select_number(f"SELECT value FROM meta WHERE name = '{name}'")

    def select_number(self, statement: str) -> int:
        """The single number that a statement selects from the history."""
        ((number,),) = self.select_rows(statement)
        return number

    def select_rows(self, statement: str, *values: object) -> list[tuple]:
        """The rows that a statement selects from the history."""
        return journal.rows(self.journal, statement, *values)

    def outcomes(self, count: int) -> dict[str, float]:
        """The time at which each of the newest ``count`` runs was settled, by payload.

        Times are in seconds since 1970.
        """
        rows = self.select_rows(journal.OUTCOMES, count)
        return {payload: settled_ms / 1000 for payload, settled_ms in rows}
