"""Simulates the REST interface of the original Runtime Manager ("an original"), for tests.

An original answers when the flow has ended. The status is 200 if the flow succeeded or does not
exist, 400 if the body is not JSON, and 500 if a key is missing or the flow failed. An original
finds a flow by the first character of its id, and executes one flow at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ports import free_port

BROKEN = "<!doctype html>\n<title>500 Internal Server Error</title>"


class Original(ThreadingHTTPServer):
    """A fake original.

    ``flows`` has a function for each flow, by id. The function gets the payload. If it raises an
    exception, the flow fails. ``executed`` has the id and the payload of every flow that has
    started. ``offered`` is the number of triggers. If ``gateway`` is set, the client gets this
    status at once, as from a gateway. The original executes the flow nevertheless.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", free_port()), _Handler)
        self.port = self.server_port
        self.flows: dict[str, Callable[[object], object]] = {}
        self.executed: list[tuple[str, object]] = []
        self.offered = 0
        self.closes_unanswered = False  # after the flow, close without an answer
        self.gateway: int | None = None
        self.resumed = threading.Event()
        self.resumed.set()
        self.one_at_a_time = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def pause(self) -> None:
        """Read no request until ``resumed`` is set, as if the original got SIGSTOP."""
        self.resumed.clear()

    def execute(self, body: bytes) -> tuple[int, str, str]:
        """Execute the flow of a request body.

        Returns the status, the content type and the text of the response.
        """
        try:
            message = json.loads(body)
        except ValueError:
            return 400, "application/json", '{"message": "Failed to decode JSON object"}\n'
        try:
            flow_id, payload = message["id_flow"], message["payload"]
            _ = message["is_load_balancing"]
            with self.one_at_a_time:
                for own_id, flow in self.flows.items():
                    if own_id[0] == str(flow_id):
                        self.executed.append((own_id, payload))
                        flow(payload)
        except Exception:  # noqa: BLE001 - every failure gets a response
            return 500, "text/html; charset=utf-8", BROKEN
        return 200, "application/json", "200\n"

    def end(self) -> None:
        """Stop the server."""
        self.resumed.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Ignore errors of clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Original

    def do_GET(self) -> None:
        self.server.resumed.wait(60)
        self._answer(405, "text/html; charset=utf-8", "<title>405 Method Not Allowed</title>")

    def do_POST(self) -> None:
        original = self.server
        if self.headers.get("Content-Length") not in (None, "0"):
            original.offered += 1
        original.resumed.wait(60)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if original.gateway is not None:
            self._answer(original.gateway, "text/html", "<h1>Bad Gateway</h1>")
            self.wfile.flush()
        answer = original.execute(body)
        if original.closes_unanswered or original.gateway is not None:
            self.close_connection = True
            return
        self._answer(*answer)

    def _answer(self, status: int, content_type: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def original():
    """A running fake original."""
    server = Original()
    yield server
    server.end()
