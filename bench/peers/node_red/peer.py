"""Node-RED, with flow 1 drawn in its editor: an alternative to the Runtime Manager."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from bench.peers.installed import FOLDER, install_once, missing_node_js_reason, node_js, npm_ci
from bench.processes import free_port, running
from fractal_rm.adapters.operating_system import raise_open_file_limit

HERE = Path(__file__).parent
INSTALLED = FOLDER / "node_red"
PACKAGE = INSTALLED / "node_modules" / "node-red"


class NodeRed:
    durable_data = "nothing"
    is_slow = True

    @property
    def name(self) -> str:
        about = PACKAGE / "package.json"
        version = json.loads(about.read_text())["version"] if about.exists() else "not installed"
        return f"Node-RED {version}"

    @property
    def max_triggers(self) -> int:
        """The number of sockets that Node-RED can open. It loses each flow that gets no socket.

        Node-RED inherits the limit of open files from this process, so the limit is raised here.
        """
        return raise_open_file_limit() * 3 // 4

    def missing_reason(self) -> str | None:
        return missing_node_js_reason("Node-RED")

    def install(self) -> None:
        install_once(INSTALLED, HERE / "package-lock.json", lambda folder: npm_ci(folder, HERE))

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        flows = Template((HERE / "flows.json").read_text()).substitute(
            nginx_port=nginx_port, broker_port=broker_port, topic=topic
        )
        (folder / "flows.json").write_text(flows)
        shutil.copy(HERE / "settings.js", folder)
        with running(
            node_js(), PACKAGE / "red.js", "--userDir", folder, "--port", str(free_port()),
            log=folder / "node-red.log",
        ) as node_red:  # fmt: skip
            node_red.wait_for_log("Started flows")
            # Node-RED logs this in the turn of its event loop in which it sends SUBSCRIBE.
            node_red.wait_for_log("Connected to broker")
            yield [node_red.pid]
