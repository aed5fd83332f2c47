"""A machine opens hundreds of slow connections, or sends hundreds of bad tokens.

Meanwhile a client with a token, on another address, is served as before.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from machine_access import new_token
from machines import connect, machine
from sites import BODY, FIRST, SECOND, STRANGER, Site

SLOW_CONNECTIONS, BAD_TOKENS, TRIGGERS = 500, 150, 20
HEAD = f"POST /startrm HTTP/1.1\r\nHost: {FIRST}\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    node_machine, client_machine = machine(f"{FIRST}/24"), machine(f"{SECOND}/24", f"{STRANGER}/24")
    with connect(node_machine, client_machine):
        site = Site(node_machine, tmp_path_factory.mktemp("node"), FIRST, "1")
        token = new_token(site, "client", "trigger")
        site.machine.call(site.node.start)
        yield SimpleNamespace(site=site, client=client_machine, token=token)
        site.end()


def send_triggers(stage) -> list[int]:
    """Send triggers with a token, each on its own connection. Returns the statuses."""
    caller = SimpleNamespace(machine=stage.client)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stage.token}"}
    return [
        stage.site.answer_to(caller, "POST", "/startrm", BODY, headers, source=SECOND)[0]
        for _ in range(TRIGGERS)
    ]


def closed_count(connections: list[socket.socket]) -> int:
    """How many connections the node has answered or closed."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


@contextmanager
def slow_connections(stage):
    """Open connections of the stranger. Each sends the beginning of a request."""

    def open_all() -> list[socket.socket]:
        opened = []
        for _ in range(SLOW_CONNECTIONS):
            address = (FIRST, stage.site.node.rest)
            connection = socket.create_connection(address, 20, (STRANGER, 0))
            opened.append(connection)
            try:
                connection.sendall(HEAD.encode())
            except ConnectionError:
                continue  # the node has closed it already
        return opened

    connections = stage.client.call(open_all)
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def test_slow_connections_of_a_machine_do_not_keep_out_a_client_with_a_token(stage):
    with slow_connections(stage) as connections:
        assert send_triggers(stage) == TRIGGERS * [200]
        # The client did not have to wait until the slow connections were over.
        still_open = SLOW_CONNECTIONS - closed_count(connections)
        assert 0 < still_open <= 64
        assert send_triggers(stage) == TRIGGERS * [200]
        assert stage.site.ready()[0] == 200
    assert stage.site.node.log.count("peer_refused peer=10.177.0.9") <= 1


def test_a_flood_of_bad_tokens_is_refused_and_a_client_with_a_token_is_served(stage):
    def send_bad_token(number: int) -> int | None:
        """The status of the answer. None: the connection was closed without an answer."""
        source = (STRANGER, 0)
        connection = http.client.HTTPConnection(FIRST, stage.site.node.rest, 30, source)
        headers = {"Content-Type": "application/json",
                   "Authorization": f"Bearer frm_{number:043}"}  # fmt: skip
        try:
            connection.request("POST", "/startrm", BODY, headers)
            reply = connection.getresponse()
            reply.read()
        except (ConnectionError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return reply.status

    runs, refused = len(stage.site.node.runs()), stage.site.count_refusals()
    with ThreadPoolExecutor(40) as senders:
        flood = stage.client.call(
            lambda: [senders.submit(send_bad_token, number) for number in range(BAD_TOKENS)]
        )
        statuses = send_triggers(stage)
        answers = {each.result(60) for each in flood}
    assert statuses == TRIGGERS * [200]
    assert 401 in answers
    assert answers <= {401, 429, None}
    assert len(stage.site.node.runs()) == runs + TRIGGERS
    assert stage.site.count_refusals() >= refused + BAD_TOKENS // 2
    assert stage.site.node.log.count("peer_refused peer=10.177.0.9") <= 2
    assert json.loads((stage.site.node.state / "tokens.json").read_text())
