"""Changes of `rest` in comm.conf: effects on requests in progress and on open connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading

from nodes import HOST, wait_until

FOREIGN_ADDRESS = "192.0.2.1"  # RFC 5737: no machine has this address


def send(node, method: str, path: str, body: object = None, **headers: str):
    """Open a connection and send a request."""
    connection = http.client.HTTPConnection(HOST, node.rest, timeout=40)
    headers.setdefault("Content-Type", "application/json")
    connection.request(method, path, json.dumps(body), headers)
    return connection


def idle_connection(node):
    """A connection that stays open after its first response."""
    connection = send(node, "GET", "/livez")
    assert connection.getresponse().read()
    return connection


def count_events(node, event: str) -> int:
    return node.log.count(f" {event} ")


def test_requests_are_served_while_rest_changes(make, components):
    """The old configuration applies to requests whose head was read before the change.

    The new configuration applies to all later requests, also on connections that stay open.
    """
    release = threading.Event()

    def answer_late(_handler, _body):
        assert release.wait(30)
        return 200, "late"

    components.answers["/endpoint2"] = answer_late
    node = make().start()
    waiting = send(node, "POST", "/v1/flows/2/runs", 1, Prefer="wait=60")
    body = b'{"id_flow": "1", "is_load_balancing": true, "payload": 1}'
    half_sent = socket.create_connection((HOST, node.rest), 40)
    half_sent.sendall(
        b"POST /startrm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body[:9]
    )
    idle = idle_connection(node)
    wait_until(lambda: len(node.runs()) == 1)
    node.edit("comm", rest__trusted_peers=["10.1.0.2"], rest__endpoint="/another")
    while count_events(node, "config_applied") == 0:
        assert node.get("/livez").status == 200
    half_sent.sendall(body[9:])
    assert half_sent.recv(100).startswith(b"HTTP/1.1 200 ")
    half_sent.close()
    for path, status in [("/startrm", 404), ("/another", 200)]:
        idle.request("POST", path, body, {"Content-Type": "application/json"})
        answer = idle.getresponse()
        answer.read()
        assert answer.status == status
    release.set()
    answer = waiting.getresponse()
    assert (answer.status, json.loads(answer.read())["results"]) == (200, ["late"])


def test_an_address_that_cannot_be_used_changes_nothing(make):
    node = make().start()
    idle = idle_connection(node)
    node.edit("comm", rest__host=FOREIGN_ADDRESS, rest__trusted_peers=["10.1.0.2"])
    wait_until(lambda: count_events(node, "config_not_applied") == 1)
    node.edit("comm", rest__host="fe80::7%0")
    wait_until(lambda: count_events(node, "config_not_applied") == 2)
    assert "a link-local address needs its interface" in node.log
    node.edit("comm", rest__host="fe80::7%none")
    wait_until(lambda: count_events(node, "config_not_applied") == 3)
    assert "there is no interface 'none'" in node.log
    idle.request("GET", "/readyz")
    assert idle.getresponse().status == 200
    node.edit("comm", rest__host="0.0.0.0")
    wait_until(lambda: count_events(node, "config_applied") == 1)
    # To listen at this address, the node would have to close its sockets at 0.0.0.0 first.
    node.edit("comm", rest__host=FOREIGN_ADDRESS)
    wait_until(lambda: count_events(node, "config_not_applied") == 4)
    assert node.get("/readyz").status == 200
    assert node.stop() == 0


def test_a_request_that_waits_during_a_change_is_answered_when_the_node_stops(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("comm", drain_s=0.1)
    node.start()
    waiting = send(node, "POST", "/v1/flows/2/runs", 1, Prefer="wait=60")
    wait_until(lambda: len(node.runs()) == 1)
    node.edit("comm", rest__endpoint="/another")
    wait_until(lambda: count_events(node, "config_applied") == 1)
    assert node.stop() == 0
    answer = waiting.getresponse()
    assert (answer.status, json.loads(answer.read())["state"]) == (202, "accepted")
