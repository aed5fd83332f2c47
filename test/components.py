"""An HTTP server in a thread, for tests. It simulates components, balancers and peers."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from ports import free_port

_NONE: Mapping[str, str] = {}


class Request(NamedTuple):
    """A request that a component has received."""

    path: str
    idempotency_key: str
    body: bytes


class Components(ThreadingHTTPServer):
    """Responds to each request with ``answers[path]``, by default with a small JSON object.

    An answer is a tuple (status, text) or (status, text, headers). The text may be bytes. An answer
    may also be a function, which is called with the handler and the body, and returns such a tuple.
    Three strings have a meaning: "hang" (the connection is closed when ``release`` is set, without
    a response), "close" (the connection is closed at once) and "garbage" (a response that is not
    HTTP).
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        super().__init__((host, port or free_port()), _Handler)
        self.port = self.server_port
        self.answers: dict[str, object] = {}
        self.requests: list[Request] = []
        self.release = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def per_key(self) -> Counter[str]:
        """The number of requests for each Idempotency-Key."""
        return Counter(
            request.idempotency_key for request in self.requests if request.idempotency_key
        )

    def stop(self) -> None:
        """Stop the server."""
        self.release.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Do not report the errors of connections to clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Components

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Idempotency-Key", "")
        self.server.requests.append(Request(self.path, key, body))
        answer = self.server.answers.get(self.path, (200, '{"ok": true}'))
        if answer == "hang":
            self.server.release.wait(60)
            self.close_connection = True
        elif answer == "close":
            self.close_connection = True
        elif answer == "garbage":
            self.wfile.write(b"\x00\xffthis is not HTTP\r\n\r\n")
            self.close_connection = True
        elif callable(answer):
            self._reply(*answer(self, body))
        else:
            self._reply(*answer)

    do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 - http.server names them

    def _reply(self, status: int, text: str | bytes, headers: Mapping[str, str] = _NONE) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def slow(seconds: float):
    """An answer that is sent after ``seconds``."""

    def answer(*_):
        time.sleep(seconds)
        return 200, json.dumps({"slept": seconds})

    return answer


@pytest.fixture
def components():
    """A running server that simulates all components."""
    server = Components()
    yield server
    server.stop()
