"""Machines with a node, its components and its balancer, for tests with several machines."""

from __future__ import annotations

import http.client
import json
import re
from typing import NamedTuple

from components import Components
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until
from open_files import MAY_OPEN_FEW

FIRST, SECOND, STRANGER = "10.177.0.1", "10.177.0.2", "10.177.0.9"
FIRST_6, SECOND_6, STRANGER_6 = "fd77::1", "fd77::2", "fd77::9"
BODY = json.dumps({"payload": "p", "id_flow": "1", "is_load_balancing": True}).encode()
# The headers of requests from the original Runtime Manager.
ORIGINAL_HEADERS = {
    "User-Agent": "python-requests/2.28.1",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
}


class Answer(NamedTuple):
    """The response to a request of another machine."""

    status: int
    body: bytes


class Site:
    """A machine with a node, its components and its balancer."""

    def __init__(self, its_machine, folder, host: str, node_id: str) -> None:
        self.machine = its_machine
        self.host = host
        self.components = its_machine.call(Components)
        port = self.components.port
        self.node = NodeProcess(folder, components=port, balancer=port, mode="api")
        # The node starts on its own machine, with few descriptors, as on small hardware.
        self.node.command_prefix = MAY_OPEN_FEW
        self.node.edit("comm", node__id=node_id, rest__host=host)

    def set_balancer(self, node_id: str | None) -> None:
        """Let the balancer place runs on a node."""
        self.components.answers["/LB/id_node"] = (200, json.dumps({"id_node": node_id}))

    def send_trigger(self) -> str:
        """Send a trigger from the machine of the node. Returns the id of the run."""
        status, _, answer = self.machine.call(self.node.trigger, ask_balancer=True)
        assert status == 200
        return answer["run"]

    def wait_for_state(self, run: str, state: State):
        """Wait until a run is in a state. Returns its details."""
        return wait_until(lambda: (details := self.node.history.run(run))
                          and details.summary.state is state and details)  # fmt: skip

    def ready(self):
        return self.machine.call(self.node.get, "/readyz")

    def count_refusals(self) -> int:
        """How many requests of other machines were refused, according to /readyz."""
        checks = {check["name"]: check["text"] for check in self.ready().body["checks"]}
        match = re.search("([0-9]+) requests? (?:was|were) refused", checks["rest"])
        return int(match[1]) if match else 0

    def answer_to(self, caller, method, path, body=None, headers=None, *, to=None, source=None):
        """Send a request from another machine. Returns the answer.

        ``to``: an address of this machine. ``source``: an address of the other machine.
        """

        def ask():
            connection = http.client.HTTPConnection(
                to or self.host, self.node.rest, 20, source and (source, 0)
            )
            try:
                connection.request(method, path, body, headers or {})
                reply = connection.getresponse()
                return Answer(reply.status, reply.read())
            finally:
                connection.close()

        return caller.machine.call(ask)

    def end(self) -> None:
        assert self.node.stop() == 0
        assert "Traceback" not in self.node.log
        assert self.node.problems() == []
        self.components.stop()


def assert_handed_off(sender: Site, receiver: Site) -> None:
    """Let the balancer of the sender choose the receiver: the run succeeds there."""
    sender.set_balancer(receiver.node.read("comm")["node"]["id"])
    run = sender.send_trigger()
    sender.wait_for_state(run, State.HANDED_OFF)
    receiver.wait_for_state(run, State.SUCCEEDED)
